//! Pages instead of files.

use super::*;

/// A site of two pages, one of which is never available.
fn pages() -> Site {
    let http = Http::pages(|path| {
        let available = path == "here";
        let text = format!("this is {path}");
        (available || path == "gone").then_some(Page { available, media_type: "text/plain", text })
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Site { directory: Directory::new(), server: Some(Server::new(http).start(listener).unwrap()) }
}

#[test]
fn a_page_is_made_for_each_request_with_the_status_that_it_chooses() {
    let site = pages();
    for (target, status, text) in [
        ("/here", 200, "this is here"),
        ("/gone", 503, "this is gone"),
        ("/here?now=1", 200, "this is here"),
        ("/h%65re", 200, "this is here"),
    ] {
        let reply = site.get(target);
        assert_eq!((reply.status(), reply.text()), (status, text), "{target}");
        assert_eq!(reply.field("Content-Type"), Some("text/plain"));
        assert_eq!((reply.field("Cache-Control"), reply.field("Connection")), (Some("no-store"), None));
    }
    for target in ["/", "/here/", "/her", "/%ff", "/../here"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
}

#[test]
fn pages_have_no_methods_but_get_and_head() {
    let site = pages();
    let mut client = site.connect();
    client.send("HEAD /here HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.reply_to_head();
    assert_eq!((head.status(), head.field("Content-Length")), (200, Some("12")));
    for (method, status) in [("POST", 405), ("DELETE", 405), ("STOP", 501)] {
        client.send(format!("{method} /here HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.reply().status(), status, "{method}");
    }
    client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "this is here");
}
