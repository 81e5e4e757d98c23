//! Messages arrive in pieces, and it does not matter in which.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Parts of requests, some of which are ambiguous.
pub(super) const PARTS: &[&str] = &[
    "GET /1 HTTP/1.1\r\n",
    "POST /2 HTTP/1.1\r\n",
    "HEAD /3 HTTP/1.1\r\n",
    "PUT http://a/4 HTTP/1.1\r\n",
    "GET /5 HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "POST /6 HTTP/1.0\r\n",
    "GET /7 HTTP/2.0\r\n",
    "DELETE /8 HTTP/1.1\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "X: y\r\n",
    "x-forwarded-for: 6.6.6.6\r\n",
    "X_Forwarded_For: 6.6.6.6\r\n",
    "Forwarded: for=6.6.6.6\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 12\r\n",
    "Content-Length : 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "transfer-encoding: Chunked \r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: upgrade, x-forwarded-for\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 100-continue\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    "\0",
    "hello",
    "hello",
    "0\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5;a=b\r\nhello\r\n",
    "5;a\nhello\r\n",
    "3\r\nabc\r\n0\r\nT: u\r\n\r\n",
    "0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    "ffffffffffffffff\r\n",
    "0x5\r\n",
    " 5\r\n",
    "5 \r\nhello\r\n",
    "0\r\n\n",
];

/// Whole requests, one of which is most often followed by others.
pub(super) const REQUESTS: &[&str] = &[
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n",
    "PUT /4 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
    "HEAD /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /6 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "POST /7 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 36\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\nabcd",
    "\r\nGET /8 HTTP/1.1\r\nX: y\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
];

/// Parts of answers.
pub(super) const ANSWER_PARTS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.1 500 \r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Keep-Alive: timeout=5\r\n",
    "X: y\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "hello",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5;a\r\nhello\r\n",
    "0\r\nT: u\r\n\r\n",
];

/// Almost a stream of such messages: parts in any order, or whole messages with some bytes changed.
pub(super) fn nearly(parts: &'static [&'static str], whole: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::collection::vec(select(parts), 0..12).prop_map(|parts| parts.concat().into_bytes());
    let change = (any::<Index>(), select(b"\r\n\0\t :;,x05+-_".to_vec()), 0..3_u8);
    let whole = (prop::collection::vec(select(whole), 1..4), prop::collection::vec(change, 0..3)).prop_map(
        |(messages, changes)| {
            let mut bytes = messages.concat().into_bytes();
            for (place, byte, how) in changes {
                let place = place.index(bytes.len().max(1));
                match how {
                    0 if place < bytes.len() => bytes[place] = byte,
                    1 => bytes.insert(place, byte),
                    2 if place < bytes.len() => drop(bytes.remove(place)),
                    _ => {}
                }
            }
            bytes
        },
    );
    prop_oneof![parts, whole]
}

/// Requests that are answered.
pub(super) fn asked() -> Vec<Request> {
    [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    ]
    .map(one)
    .to_vec()
}

/// Answers to these requests. The last one has no end of its own.
pub(super) const ANSWERS: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
    HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\
    HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi\
    HTTP/1.1 404\r\nTransfer-Encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nT: u\r\n\r\n\
    HTTP/1.1 200 OK\r\n\r\nto the end";

pub(super) fn config() -> ProptestConfig {
    ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

/// What does not depend on the pieces: of a bad body, only the beginning may have been passed on before.
fn in_common<T>((mut passed, ending): (Vec<T>, Ending)) -> (Vec<T>, Ending) {
    if ending == Ending::BadBody {
        passed.pop();
    }
    (passed, ending)
}

#[test]
fn requests_are_the_same_wherever_they_are_cut() {
    for text in REQUESTS.iter().map(|first| format!("{first}{}", REQUESTS.concat())) {
        let bytes = text.as_bytes();
        let whole = pass_requests(bytes, &[], Forwarded::Replace);
        for cut in 0..bytes.len() {
            assert_eq!(pass_requests(bytes, &[cut], Forwarded::Replace), whole, "at {cut}");
        }
        let everywhere: Vec<_> = (0..bytes.len()).collect();
        assert_eq!(pass_requests(bytes, &everywhere, Forwarded::Replace), whole);
    }
}

#[test]
fn answers_are_the_same_wherever_they_are_cut() {
    let bytes = ANSWERS.as_bytes();
    for close in [false, true] {
        let whole = pass_answers(bytes, &[], &asked(), close);
        assert_eq!(whole.0.len(), if close { 2 } else { 6 });
        for cut in 0..bytes.len() {
            assert_eq!(pass_answers(bytes, &[cut], &asked(), close), whole, "at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nearly_requests_are_the_same_in_all_pieces(bytes in nearly(PARTS, REQUESTS), cut: Index, forwarded in select(vec![Forwarded::Append, Forwarded::Replace, Forwarded::Off])) {
        let whole = in_common(pass_requests(&bytes, &[], forwarded));
        let everywhere: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&in_common(pass_requests(&bytes, &everywhere, forwarded)), &whole);
        prop_assert_eq!(&in_common(pass_requests(&bytes, &[cut.index(bytes.len() + 1)], forwarded)), &whole);
    }

    #[test]
    fn nearly_answers_are_the_same_in_all_pieces(bytes in nearly(ANSWER_PARTS, ANSWER_PARTS), cut: Index, close: bool) {
        let whole = in_common(pass_answers(&bytes, &[], &asked(), close));
        let everywhere: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(&in_common(pass_answers(&bytes, &everywhere, &asked(), close)), &whole);
        prop_assert_eq!(&in_common(pass_answers(&bytes, &[cut.index(bytes.len() + 1)], &asked(), close)), &whole);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        pass_requests(&bytes, &[], Forwarded::Append);
        pass_answers(&bytes, &[], &asked(), true);
        let mut reader = BodyReader::of_request(Body::Chunked);
        prop_assert!(reader.advance(&bytes).is_ok_and(|taken| taken <= bytes.len()) || !reader.is_done());
    }

    /// The program gets the relay's own fields about the client, and no others, whatever else the client has sent.
    #[test]
    fn with_replace_nothing_forged_passes(bytes in nearly(PARTS, REQUESTS)) {
        for passed in pass_requests(&bytes, &[], Forwarded::Replace).0 {
            let head = String::from_utf8_lossy(&passed.head).to_ascii_lowercase();
            prop_assert_eq!(head.matches("\r\nx-forwarded-for: 192.0.2.1\r\n").count(), 1);
            // Some programs read an underscore as a hyphen.
            let names = head.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.replace('_', "-"));
            let about_the_client = ["x-forwarded-for", "x-forwarded-proto", "forwarded"];
            prop_assert_eq!(names.filter(|name| about_the_client.contains(&name.as_str())).count(), 2);
        }
    }
}
