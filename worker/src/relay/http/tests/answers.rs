use super::*;

fn get() -> Request {
    one(&with(""))
}

fn asked(line: &str, fields: &str) -> Request {
    one(&format!("{line}\r\nHost: a\r\n{fields}\r\n"))
}

/// The body, and whether the program's connection and the client's are kept.
fn fate(text: &str, request: &Request) -> Result<(Body, bool, bool), Doubt> {
    let mut head = Vec::new();
    let answer = answer(text.as_bytes(), request, false, &mut head)?.expect("the head is complete");
    assert_eq!(head, &text.as_bytes()[..answer.head_length], "it is passed on as it is");
    match answer.kind {
        Kind::Final { body, keeps_upstream, keeps_client } => Ok((body, keeps_upstream, keeps_client)),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn ok(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n")
}

#[test]
fn the_body_of_an_answer_depends_on_method_and_status_first() {
    let long = "Content-Length: 5\r\n";
    assert_eq!(fate(&ok(long), &get()), Ok((Body::Length(5), true, true)));
    assert_eq!(fate(&ok("Content-Length: 0\r\n"), &get()), Ok((Body::None, true, true)));
    assert_eq!(fate(&ok("Transfer-Encoding: chunked\r\n"), &get()), Ok((Body::Chunked, true, true)));
    assert_eq!(fate(&ok(""), &get()), Ok((Body::UntilClose, false, false)));
    for fields in [long, "", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(fate(&ok(fields), &asked("HEAD / HTTP/1.1", "")), Ok((Body::None, true, true)), "{fields}");
        for status in ["204 No Content", "304 Not Modified"] {
            assert_eq!(fate(&format!("HTTP/1.1 {status}\r\n{fields}\r\n"), &get()), Ok((Body::None, true, true)));
        }
    }
    assert_eq!(fate("HTTP/1.1 205\r\nContent-Length: 5\r\n\r\n", &get()), Ok((Body::Length(5), true, true)));
}

#[test]
fn an_answer_with_two_ends_is_doubted() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "X: y\r\n folded\r\n",
        "X : y\r\n",
        "X: y\rz\r\n",
        "X: y\n",
        "X: \0\r\n",
    ] {
        assert_eq!(fate(&ok(fields), &get()), Err(Doubt), "{fields:?}");
    }
    assert_eq!(fate("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &get()), Err(Doubt));
    let old = one("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(fate(&ok("Transfer-Encoding: chunked\r\n"), &old), Err(Doubt), "HTTP/1.0 has no chunks");
}

#[test]
fn what_is_no_answer_is_doubted_at_once() {
    for bytes in [
        "SSH-2.0",
        "h",
        "HTTP/2",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
    ] {
        assert_eq!(answer(bytes.as_bytes(), &get(), false, &mut Vec::new()), Err(Doubt), "{bytes:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(64 * 1024));
    assert_eq!(answer(endless.as_bytes(), &get(), false, &mut Vec::new()), Err(Doubt));
}

#[test]
fn the_end_that_the_program_wants_is_honoured() {
    let length = "Content-Length: 5\r\n";
    for (version, option, is_kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: close\r\n", false),
    ] {
        let text = format!("HTTP/{version} 200 OK\r\n{length}{option}\r\n");
        assert_eq!(fate(&text, &get()), Ok((Body::Length(5), is_kept, is_kept)), "{text:?}");
        let closing = asked("GET / HTTP/1.1", "Connection: close\r\n");
        assert_eq!(fate(&text, &closing), Ok((Body::Length(5), false, false)), "{text:?}");
    }
}

#[test]
fn a_client_of_http_1_0_is_kept_only_if_it_is_told() {
    let old = one("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(fate(&ok("Content-Length: 5\r\n"), &old), Ok((Body::Length(5), false, false)));
    let told = ok("Content-Length: 5\r\nConnection: keep-alive\r\n");
    assert_eq!(fate(&told, &old), Ok((Body::Length(5), true, true)));
    assert_eq!(fate(&told, &one("GET / HTTP/1.0\r\n\r\n")), Ok((Body::Length(5), false, false)));
}

#[test]
fn a_program_that_may_not_have_read_a_body_gets_the_next_request_on_another_connection() {
    for (method, keeps_upstream) in [("GET", false), ("HEAD", false), ("POST", true), ("PUT", true)] {
        let request = one(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
        let (_, upstream, client) = fate(&ok("Content-Length: 0\r\n"), &request).unwrap();
        assert_eq!((upstream, client), (keeps_upstream, true), "{method}");
    }
}

#[test]
fn only_the_word_of_the_program_makes_a_connection_opaque() {
    let kind =
        |text: &str, request: &Request| Ok(answer(text.as_bytes(), request, false, &mut Vec::new())?.unwrap().kind);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let upgrade = asked("GET / HTTP/1.1", "Connection: upgrade\r\nUpgrade: x\r\n");
    let h2c = asked("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n");
    let connect = asked("CONNECT a:1 HTTP/1.1", "");
    assert_eq!(kind(switch, &upgrade), Ok(Kind::Opaque));
    assert_eq!(kind(switch, &get()), Err(Doubt), "nothing was asked for");
    assert_eq!(kind(&ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), &connect), Ok(Kind::Opaque));
    let answer = Kind::Final { body: Body::Length(5), keeps_upstream: true, keeps_client: true };
    for request in [&upgrade, &h2c, &get()] {
        assert_eq!(kind(&ok("Content-Length: 5\r\nUpgrade: h2c\r\n"), request), Ok(answer), "no 101, no upgrade");
    }
    assert_eq!(kind("HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n", &connect), Ok(answer));
}

#[test]
fn interim_answers_are_followed_by_another_one() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 7\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let (passed, ending) = pass_answers(text.as_bytes(), &[], &[get()], false);
    assert_eq!(passed.iter().map(|passed| passed.answer.status).collect::<Vec<_>>(), [100, 103, 200]);
    assert_eq!((passed[2].body.as_slice(), ending), (&b"hi"[..], Ending::Open));
}

#[test]
fn a_client_that_has_to_leave_is_told_so_in_its_answer() {
    for (fields, told) in [
        ("Content-Length: 0\r\n", "Content-Length: 0\r\nConnection: close\r\n"),
        ("Connection: close\r\nX: y\r\n", "Connection: close\r\nX: y\r\n"),
        (
            "A: b\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nC: d\r\n",
            "A: b\r\nC: d\r\nConnection: close\r\n",
        ),
        ("connection: Keep-Alive, Foo\r\nFoo: 1\r\n", "connection: Foo\r\nFoo: 1\r\nConnection: close\r\n"),
        ("", "Connection: close\r\n"),
    ] {
        let mut head = Vec::new();
        let answer = answer(ok(fields).as_bytes(), &get(), true, &mut head).unwrap().unwrap();
        assert_eq!(String::from_utf8(head).unwrap(), ok(told), "{fields:?}");
        assert_eq!(answer.head_length, ok(fields).len());
        assert!(matches!(answer.kind, Kind::Final { keeps_client: false, .. }));
    }
    let mut head = Vec::new();
    answer(b"HTTP/1.1 100 Continue\r\n\r\n", &get(), true, &mut head).unwrap();
    assert_eq!(head, b"HTTP/1.1 100 Continue\r\n\r\n", "not before its last answer");
}
