use super::*;

/// A program that ends the request before this too early would take it for a request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_shape_that_programs_disagree_on_is_refused_before_a_byte_of_it_is_passed_on() {
    for (name, fields, status) in [
        ("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", 400),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", 400),
        ("CL.0 with TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
        ("TE.TE: two", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", 400),
        ("TE.TE: two, reversed", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", 400),
        ("TE.TE: a list", "Transfer-Encoding: chunked, identity\r\n", 400),
        ("TE.TE: twice", "Transfer-Encoding: chunked, chunked\r\n", 400),
        ("TE: unknown first", "Transfer-Encoding: gzip, chunked\r\n", 501),
        ("TE: empty first", "Transfer-Encoding: , chunked\r\n", 400),
        ("TE: xchunked", "Transfer-Encoding: xchunked\r\n", 400),
        ("TE: identity", "Transfer-Encoding: identity\r\n", 400),
        ("TE: quoted", "Transfer-Encoding: \"chunked\"\r\n", 400),
        ("TE: parameter", "Transfer-Encoding: chunked;a=b\r\n", 400),
        ("TE: empty", "Transfer-Encoding:\r\n", 400),
        ("TE: vertical tab", "Transfer-Encoding: \x0bchunked\r\n", 400),
        ("TE: form feed", "Transfer-Encoding: chunked\x0c\r\n", 400),
        ("TE: NUL", "Transfer-Encoding: chunked\0\r\n", 400),
        ("TE: space before the colon", "Transfer-Encoding : chunked\r\n", 400),
        ("TE: tab before the colon", "Transfer-Encoding\t: chunked\r\n", 400),
        ("TE: folded value", "Transfer-Encoding:\r\n chunked\r\n", 400),
        ("TE: folded behind another", "X: y\r\n\tTransfer-Encoding: chunked\r\n", 400),
        ("TE: behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n", 400),
        ("TE: behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n", 400),
        ("TE: bare CR in the value", "Transfer-Encoding: chunked\r\r\n", 400),
        ("TE: no name", ": y\r\nTransfer-Encoding: chunked\r\n", 400),
        ("TE: no colon", "Transfer-Encoding chunked\r\n", 400),
        ("first field folded", " Transfer-Encoding: chunked\r\n", 400),
        ("CL: two", "Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("CL: two alike", "Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        ("CL: list", "Content-Length: 5, 5\r\n", 400),
        ("CL: plus", "Content-Length: +5\r\n", 400),
        ("CL: minus", "Content-Length: -5\r\n", 400),
        ("CL: hexadecimal", "Content-Length: 0x5\r\n", 400),
        ("CL: inner space", "Content-Length: 5 0\r\n", 400),
        ("CL: underscore", "Content-Length: 5_0\r\n", 400),
        ("CL: fraction", "Content-Length: 5.0\r\n", 400),
        ("CL: empty", "Content-Length:\r\n", 400),
        ("CL: more than 64 bits", "Content-Length: 18446744073709551621\r\n", 400),
        ("CL: more than 63 bits", "Content-Length: 9223372036854775808\r\n", 400),
        ("CL: space before the colon", "Content-Length : 5\r\n", 400),
        ("CL: other digits", "Content-Length: \u{665}\r\n", 400),
        ("the end by bare LFs", "X: y\n\n", 400),
        ("the end by CR LF LF", "X: y\r\n\n", 400),
        ("the end by CR CR", "X: y\r\r", 400),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{HIDDEN}");
        assert_eq!(pass(text.as_bytes()), (Vec::new(), Ending::Refused(status)), "{name}");
    }
    for (name, text) in [
        (
            "TE with HTTP/1.0",
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("CONNECT with a body", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
        ("a target with a tab", "GET /\ta HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a request in the target", "GET / HTTP/1.1 /b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a line of a version alone", "GET /\r\nHost: a\r\n\r\n"),
    ] {
        let text = format!("{text}{HIDDEN}");
        assert_eq!(pass(text.as_bytes()), (Vec::new(), Ending::Refused(400)), "{name}");
    }
}

#[test]
fn a_bad_chunk_ends_the_connection_before_it_completes_its_request() {
    for (name, body) in [
        ("an extension with a bare LF (TERM.EXT)", "2;\nxx\r\n4c\r\n0\r\n\r\n"),
        ("an extension with a bare CR", "2;a\rb\r\nxx\r\n0\r\n\r\n"),
        ("a length that overflows", "10000000000000000\r\n0\r\n\r\n"),
        ("a negative length", "-1\r\n0\r\n\r\n"),
        ("0x", "0x0\r\n\r\n"),
        ("a line that ends with LF", "0\n\r\n"),
        ("an end that ends with LF", "0\r\n\n"),
        ("two bytes of any kind behind a chunk (EXT.TERM)", "2\r\nxxXX0\r\n\r\n"),
        ("a chunk that is longer than it says", "2\r\nxxx\r\n0\r\n\r\n"),
        ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
        ("a request for a trailer", "0\r\nGET /hidden HTTP/1.1\r\n\r\n"),
        ("a length for a trailer", "0\r\nContent-Length: 5\r\n\r\n"),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}");
        let (passed, ending) = pass(text.as_bytes());
        assert_eq!(ending, Ending::BadBody, "{name}");
        assert!(matches!(passed.as_slice(), [one] if !one.is_whole && one.body.is_empty()), "{name}: {passed:?}");
    }
}

#[test]
fn a_request_in_a_body_is_a_part_of_the_body() {
    for (fields, body) in [
        (format!("Content-Length: {}\r\n", HIDDEN.len()), HIDDEN.to_owned()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())),
        (
            format!(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\nContent-Length: {}\r\n",
                HIDDEN.len()
            ),
            HIDDEN.to_owned(),
        ),
        (
            format!("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: {}\r\n", HIDDEN.len()),
            HIDDEN.to_owned(),
        ),
    ] {
        let next = with("X: next\r\n");
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{next}");
        let (passed, ending) = pass(text.as_bytes());
        assert_eq!(ending, Ending::Open, "{fields:?}");
        let [first, second] = passed.as_slice() else { panic!("{fields:?}: {passed:?}") };
        assert_eq!((first.body.as_slice(), second.head.as_slice()), (body.as_bytes(), next.as_bytes()), "{fields:?}");
    }
}

#[test]
fn a_body_of_an_answer_is_never_another_answer() {
    let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let head = one("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let get = one(&with(""));
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", hidden.len());
    let (passed, _) = pass_answers(format!("{text}{hidden}{hidden}").as_bytes(), &[], &[get, get], false);
    assert_eq!(passed.iter().map(|passed| passed.body.len()).collect::<Vec<_>>(), [hidden.len(), 0]);
    let (passed, _) = pass_answers(format!("{text}{hidden}").as_bytes(), &[], &[head, get], false);
    assert_eq!(passed.iter().map(|passed| passed.body.len()).collect::<Vec<_>>(), [0, 0]);
}
