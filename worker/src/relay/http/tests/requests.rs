use super::*;

#[test]
fn a_request_is_complete_with_its_empty_line() {
    let whole = with("X: y\r\n");
    for length in 0..whole.len() {
        assert_eq!(pass(&whole.as_bytes()[..length]), (Vec::new(), Ending::Open), "{:?}", &whole[..length]);
    }
    assert_eq!(one(&whole).head_length, whole.len());
}

#[test]
fn without_forwarding_the_head_is_passed_on_as_it_is() {
    let odd = "gEt /a%zz?\"<>#b HTTP/1.1\r\nhOsT:a:1 \t\r\nx:\ty \r\nX:\r\nX_y: \u{fc}\r\nConnection: x-forwarded-for\r\n\r\n";
    let (passed, ending) = pass(odd.as_bytes());
    assert_eq!((passed[0].head.as_slice(), ending), (odd.as_bytes(), Ending::Open));
}

#[test]
fn empty_lines_before_a_request_are_not_passed_on() {
    let (passed, ending) = pass(format!("\r\n\r\n{}", with("")).as_bytes());
    assert_eq!((passed[0].head.as_slice(), ending), (with("").as_bytes(), Ending::Open));
    assert_eq!((empty_lines(b"\r\n\r\nGET"), empty_lines(b"\r"), empty_lines(b"\n\r\n")), (4, 0, 0));
    assert_eq!(status(format!("\n{}", with(""))), Some(400));
    assert_eq!(status("\r\n".repeat(32 * 1024)), Some(431));
}

#[test]
fn whether_the_connection_is_kept_depends_on_version_and_options() {
    for (text, is_kept) in [
        (with(""), true),
        (with("Connection: close\r\n"), false),
        (with("Connection: TE,\tClose ,x\r\n"), false),
        (with("Connection: closed\r\nConnection: not close\r\n"), true),
        (with("Connection: keep-alive\r\nConnection: close\r\n"), false),
        ("GET / HTTP/1.0\r\n\r\n".into(), false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n".into(), true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n".into(), false),
    ] {
        assert_eq!(one(&text).keeps_alive, is_kept, "{text:?}");
    }
}

#[test]
fn http_1_1_has_one_host() {
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Some(400));
    assert_eq!(status(with("Host: a\r\n")), Some(400));
    assert_eq!(status("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Some(400));
    for host in ["a,b", "a b", "a/b", "a@b", "a\\b", "\u{fc}"] {
        assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Some(400), "{host}");
    }
    for host in ["", "a", "a:80", "[::1]:80", "a_b.example."] {
        assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), None, "{host}");
    }
}

#[test]
fn an_absolute_target_names_the_host_of_the_field() {
    for (target, host, is_valid) in [
        ("http://a/", "a", true),
        ("HTTP://A:80/b", "a", true),
        ("https://a", "A:443", true),
        ("http://a?b", "a", true),
        ("http://a/", "b", false),
        ("http://a:81/", "a", false),
        ("http://b@a/", "a", false),
        ("http:///a", "a", false),
        ("ftp://a/", "a", false),
        ("a", "a", false),
        ("*", "a", false),
    ] {
        let refused = status(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(refused, (!is_valid).then_some(400), "{target} {host}");
    }
    assert_eq!(status("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), None);
    for (target, is_valid) in
        [("a:1", true), ("[::1]:443", true), ("a", false), ("a:", false), ("/", false), (":1", false)]
    {
        let refused = status(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(refused, (!is_valid).then_some(400), "{target}");
    }
}

#[test]
fn the_body_is_as_long_as_its_fields_say() {
    for (fields, body) in [
        ("", Body::None),
        ("Content-Length: 0\r\n", Body::None),
        ("content-LENGTH: 5 \r\n", Body::Length(5)),
        ("Content-Length: 0005\r\n", Body::Length(5)),
        ("Content-Length: 9223372036854775807\r\n", Body::Length(i64::MAX.unsigned_abs())),
        ("Transfer-Encoding: chunked\r\n", Body::Chunked),
        ("transfer-encoding:\tCHUNKED \r\n", Body::Chunked),
    ] {
        assert_eq!(pass(with(fields).as_bytes()).0[0].request.body, body, "{fields:?}");
    }
}

#[test]
fn another_version_is_told_apart_from_nonsense() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"] {
        assert_eq!(status(format!("GET / {version}\r\nHost: a\r\n\r\n")), Some(505), "{version}");
    }
    for line in
        ["GET /", "GET / http/1.1", "GET / HTTP/1.10", "GET / HTTX/1.1", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", ""]
    {
        assert_eq!(status(format!("x{line}\r\nHost: a\r\n\r\n")), Some(400), "{line}");
    }
}

#[test]
fn a_head_has_limits() {
    let room = 64 * 1024 - with("X: \r\n").len();
    assert_eq!(status(with(&format!("X: {}\r\n", "y".repeat(room)))), None);
    assert_eq!(status(with(&format!("X: {}\r\n", "y".repeat(room + 1)))), Some(431));
    assert_eq!(status("G".repeat(64 * 1024 - 1)), None);
    assert_eq!(status("G".repeat(64 * 1024)), Some(431));
    assert_eq!(status(with(&"X: y\r\n".repeat(127))), None);
    assert_eq!(status(with(&"X: y\r\n".repeat(128))), Some(431));
}

#[test]
fn a_request_is_sent_once_more_only_if_that_changes_nothing() {
    for (method, may_be) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("get", false),
    ] {
        let request = one(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(request.may_be_repeated(), may_be, "{method}");
        let request = one(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
        assert!(!request.may_be_repeated(), "{method} with a body");
    }
}

#[test]
fn a_client_asks_for_an_upgrade_by_two_fields() {
    assert!(one(&with("Connection: Upgrade\r\nUpgrade: websocket\r\n")).asks_for_upgrade);
    assert!(!one(&with("Upgrade: websocket\r\n")).asks_for_upgrade);
    assert!(!one(&with("Connection: upgrade\r\n")).asks_for_upgrade);
}

#[test]
fn a_connection_of_another_protocol_is_opaque_from_its_first_byte() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for length in 0..preface.len() {
        assert_eq!(Opening::of(&preface[..length]), Opening::Undecided, "{length}");
    }
    assert_eq!(Opening::of(preface), Opening::Other("HTTP/2"));
    assert_eq!(Opening::of(&[0x16]), Opening::Undecided);
    assert_eq!(Opening::of(&[0x16, 3, 1, 2, 0, 1]), Opening::Other("TLS"));
    for other in [&b"G"[..], b"PRINT / HTTP/1.1", b"PRI * HTTP/1.1\r\n", b"\r\n", &[0x16, 2]] {
        assert_eq!(Opening::of(other), Opening::Http, "{other:?}");
    }
}
