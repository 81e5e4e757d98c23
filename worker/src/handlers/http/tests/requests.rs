//! Requests as clients write them.

use super::*;
use proptest::prelude::*;

#[test]
fn requests_that_come_together_are_answered_in_their_order() {
    let site = Directory::new().file("1", "one").file("2", "two").serve();
    let mut client = site.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345");
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.reply().text(), "one");
    assert_eq!(client.reply().status(), 405);
    let last = client.reply();
    assert_eq!((last.text(), last.field("Connection")), ("two", Some("close")));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_one_answer_unless_it_asks_for_more() {
    let site = Directory::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), Some("keep-alive"));
    client.send("GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn other_methods_are_refused_by_name() {
    let site = Directory::new().serve();
    let mut client = site.connect();
    client.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    // For one path or for all.
    for target in ["/", "/none", "*"] {
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let reply = client.reply_to_head();
        assert_eq!((reply.status(), reply.field("Allow")), (204, Some("GET, HEAD, OPTIONS")), "{target}");
        assert_eq!(reply.field("Content-Length"), None, "{target}");
    }
    client.send("BREW / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().status(), 501);
}

#[test]
fn a_body_that_is_too_long_to_discard_ends_the_connection_after_the_answer() {
    let site = Directory::new().file("a", "x").serve();
    for fields in [
        "Content-Length: 10000000\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ] {
        let mut client = site.connect();
        client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.send(vec![b'x'; 100_000]);
        let reply = client.reply();
        assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")), "{fields}");
        assert!(client.is_closed());
    }
}

#[test]
fn input_that_is_not_http_is_answered_and_closed() {
    let site = Directory::new().serve();
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}\0\u{1}\0", 400),
    ] {
        let mut client = site.connect();
        client.send(request);
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("Connection")), (status, Some("close")), "{request:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_head_that_does_not_end_is_refused_at_its_limit() {
    let site = Directory::new().serve();
    for (begin, status) in [("GET /", 414), ("GET / HTTP/1.1\r\nX: ", 431)] {
        let mut client = site.connect();
        client.send(begin);
        client.send(vec![b'a'; 100_000]);
        assert_eq!(client.reply().status(), status);
        assert!(client.is_closed());
    }
}

#[test]
fn each_request_is_logged_with_its_outcome() {
    let (line, lines) = mpsc::channel();
    let site = Directory::new().file("a.txt", "hello").serve_with(move |http| {
        http.log(move |logged| line.send((logged.request.to_owned(), logged.status, logged.sent)).unwrap())
    });
    site.get("/a.txt");
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), ("GET /a.txt HTTP/1.1".to_owned(), 200, 5));
    let mut client = site.connect();
    client.send("GET /\u{7}\"\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.reply();
    let (request, status, _) = lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!((request.as_str(), status), ("GET /\\x07\\\"\\xc3\\xa9 HTTP/1.1", 400));
}

/// The requests of `corpus`, each with its name: the status of its answer, or `incomplete`, and a description.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/handlers/http/tests/corpus")).unwrap();
    let read = |file: fs::DirEntry| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap());
    files.map(|file| read(file.unwrap())).collect()
}

/// The files that the corpus asks for.
fn asked_for() -> Directory {
    Directory::new().file("a.txt", "0123456789").file("directory/x", "")
}

/// The length of the first request in the received bytes, the status of its answer, and the future of the connection.
fn outcome(http: &Http, received: &[u8]) -> Option<(usize, Status, After)> {
    http.answer_to(received, false).map(|(length, answer)| (length, answer.status, answer.after))
}

#[test]
fn each_request_of_the_corpus_gets_the_status_of_its_name() {
    let directory = asked_for();
    let http = Http::new(directory.public()).unwrap();
    let mut wrong = Vec::new();
    for (name, request) in corpus() {
        let answered = outcome(&http, &request).map(|(_, status, _)| (status as u16).to_string());
        let status = answered.as_deref().unwrap_or("incomplete");
        if name.split('-').next() != Some(status) {
            wrong.push(format!("{name}: {status}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_request_does_not_depend_on_how_it_arrives() {
    let directory = asked_for();
    let http = Http::new(directory.public()).unwrap();
    for (name, request) in corpus() {
        let whole = outcome(&http, &request);
        // A part of an invalid request may be enough to refuse it.
        let Some((length, _, After::Keep { .. } | After::Close)) = whole else { continue };
        for end in 0..length {
            assert_eq!(outcome(&http, &request[..end]), None, "{name}, the first {end} bytes");
        }
        let more = [&request[..length], b"more"].concat();
        assert_eq!(outcome(&http, &more), whole, "{name} and more");
    }
}

/// A slightly changed request of the corpus, or something else.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let piece = || {
        prop_oneof![
            prop::sample::select(vec!["GET ", " HTTP/1.1\r\n", "Host: a\r\n", "\r\n", "\r", "\n", " ", ":", ",", "/"]),
            prop::sample::select(vec!["%2e%2e/", "..", "secret.txt", "a.txt", "directory/", "?", "#", "%", "\0", "\t"]),
        ]
        .prop_map(|piece| piece.as_bytes().to_vec())
    };
    let field =
        "(Range|If-Range|If-None-Match|If-Modified-Since|Content-Length|Connection|Expect|Host): [ -~]{0,20}\r\n";
    let piece = prop_oneof![
        piece(),
        field.prop_map(String::into_bytes),
        "Range: bytes=[0-9]{0,3}-[0-9]{0,21}\r\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    let change = (any::<prop::sample::Index>(), 0..4_usize, piece);
    let request = prop::sample::select(corpus()).prop_map(|(_, request)| request);
    (request, prop::collection::vec(change, 0..4)).prop_map(|(mut request, changes)| {
        for (at, removed, piece) in changes {
            let start = at.index(request.len() + 1);
            let end = (start + removed).min(request.len());
            request.splice(start..end, piece);
        }
        request
    })
}

#[test]
fn any_bytes_get_an_answer_or_wait_for_more() {
    let directory = asked_for();
    let http = Http::new(directory.public()).unwrap();
    let config = ProptestConfig { cases: 2000, ..ProptestConfig::default() };
    proptest!(config, |(request in nearly_http(), draining: bool)| {
        let Some((length, answer)) = http.answer_to(&request, draining) else { return Ok(()) };
        prop_assert!(answer.bytes().starts_with(b"HTTP/1.1 "));
        prop_assert!(!answer.bytes().ends_with(b"secret"));
        prop_assert!(length <= request.len() && length > 0);
        let closes = matches!(answer.after, After::Close | After::Abandon);
        prop_assert!(closes || !draining || length < request.len());
        if answer.after != After::Abandon {
            prop_assert_eq!(outcome(&http, &request[..length - 1]), None);
        }
    });
}
