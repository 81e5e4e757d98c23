//! Files of the directory, and nothing else.

use std::time::SystemTime;

use super::*;
use proptest::prelude::*;

#[test]
fn a_file_is_served_with_the_fields_that_describe_it() {
    let site = Directory::new().file("a/page.html", "<p>hello").serve();
    let reply = site.get("/a/page.html");
    assert_eq!((reply.status(), reply.text()), (200, "<p>hello"));
    assert_eq!(reply.field("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.field("Accept-Ranges"), Some("bytes"));
    assert_eq!(reply.field("Connection"), None);
    for name in ["Date", "Last-Modified"] {
        assert!(httpdate::parse_http_date(reply.field(name).unwrap()).is_ok());
    }
    assert!(reply.field("ETag").unwrap().starts_with('"'));
}

#[test]
fn a_file_of_any_length_arrives_whole_and_its_connection_is_kept() {
    for length in [0, 1, 4095, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
        let content: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        let site = Directory::new().file("data.unknown", &content).serve();
        let mut client = site.connect();
        for _ in 0..2 {
            client.send("GET /data.unknown HTTP/1.1\r\nHost: a\r\n\r\n");
            let reply = client.reply();
            assert!(reply.body == content, "a file of {length} bytes");
            assert_eq!(reply.field("Content-Type"), Some("application/octet-stream"));
        }
    }
}

#[test]
fn head_has_the_header_of_get_without_the_body() {
    let site = Directory::new().file("a.txt", "hello").file("directory/b", "").serve();
    for target in ["/a.txt", "/", "/directory", "/missing"] {
        let mut client = site.connect();
        let without_date = |reply: Reply| {
            let lines = reply.header.lines().filter(|line| !line.starts_with("Date"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = without_date(client.reply_to_head());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head, without_date(client.reply()), "{target}");
    }
}

/// As on a machine whose clock is ahead of ours.
#[test]
fn no_answer_says_that_its_file_was_modified_after_it() {
    // One is read at once, one is sent piece by piece.
    let site = Directory::new().file("small", "a").file("large", vec![b'a'; 3_000_000]).serve();
    let future = SystemTime::now() + Duration::from_secs(3600);
    let mut client = site.connect();
    for name in ["small", "large"] {
        File::options().write(true).open(site.directory.public().join(name)).unwrap().set_modified(future).unwrap();
        let request = |method: &str, fields: &str| format!("{method} /{name} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        client.send(request("GET", ""));
        let get = client.reply();
        client.send(request("HEAD", ""));
        let head = client.reply_to_head();
        client.send(request("GET", &format!("If-None-Match: {}\r\n", get.field("ETag").unwrap())));
        let unchanged = client.reply_to_head();
        for (reply, status) in [(get, 200), (head, 200), (unchanged, 304)] {
            assert_eq!(reply.status(), status, "{name}");
            let [modified, date] =
                ["Last-Modified", "Date"].map(|field| httpdate::parse_http_date(reply.field(field).unwrap()).unwrap());
            assert!(modified <= date, "{name}: {}", reply.header);
        }
    }
}

#[test]
fn a_directory_is_served_by_its_index_if_it_has_one() {
    let site = Directory::new().file("index.html", "top").file("old/index.htm", "old").file("bare/x", "").serve();
    assert_eq!(site.get("/").text(), "top");
    assert_eq!(site.get("/old/").text(), "old");
    assert_eq!(site.get("/").field("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(site.get("/bare/").text().contains("<a href=\"x\">x</a>"));
}

#[test]
fn a_directory_without_a_slash_is_redirected_and_stays_on_this_host() {
    let site = Directory::new().file("a b/x", "").serve();
    for (target, location) in [("/a%20b?q=1", "/a%20b/?q=1"), ("//a%20b", "/a%20b/"), ("/a%20b/..", "/")] {
        let reply = site.get(target);
        assert_eq!((reply.status(), reply.field("Location")), (301, Some(location)), "{target}");
    }
    assert_eq!(site.get("/a%20b/x/").status(), 404, "a file is no directory");
}

#[test]
#[cfg(unix)]
fn a_listing_is_sorted_and_escapes_what_it_lists() {
    use std::os::unix::ffi::OsStrExt;
    let directory =
        Directory::new().file("b", "").file("A", "").file("<c>&\"'", "").file("directory/x", "").file("a:b", "");
    fs::write(directory.public().join(std::ffi::OsStr::from_bytes(b"\xff")), "not UTF-8").unwrap();
    let site = directory.link("b", "link").serve();
    let page = site.get("/");
    let lines: Vec<_> = page.text().lines().filter(|line| line.starts_with("<li>")).collect();
    assert_eq!(
        lines,
        [
            "<li><a href=\"%3Cc%3E%26%22%27\">&lt;c&gt;&amp;&quot;&#x27;</a></li>",
            "<li><a href=\"A\">A</a></li>",
            "<li><a href=\"a%3Ab\">a:b</a></li>",
            "<li><a href=\"b\">b</a></li>",
            "<li><a href=\"directory/\">directory/</a></li>",
            "<li><a href=\"link\">link@</a></li>",
            "<li><a href=\"%FF\">\u{fffd}</a></li>",
        ]
    );
    assert_eq!(page.field("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(site.get("/%FF").text(), "not UTF-8");
}

#[test]
fn no_path_leads_outside() {
    let site = Directory::new().file("a/x", "").serve();
    for target in [
        "/../secret.txt",
        "/a/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..\\secret.txt",
        "/a/..\\..\\..\\secret.txt",
        "http://a/../secret.txt",
    ] {
        let reply = site.get(target);
        assert_eq!(reply.status(), 404, "{target}: {}", reply.text());
    }
    let absolute = site.directory.0.join("secret.txt");
    assert_eq!(site.get(&format!("/{}", absolute.display())).status(), 404);
}

#[test]
#[cfg(unix)]
fn a_symlink_that_leads_outside_is_not_followed() {
    let directory = Directory::new();
    let secret = directory.0.join("secret.txt");
    let outside = directory.0.clone();
    let site = directory
        .link("../secret.txt", "relative")
        .link(secret, "absolute")
        .link(outside, "outside")
        .link("..", "up")
        .link("/proc/self", "proc")
        .link("loop", "loop")
        .serve();
    for target in ["/relative", "/absolute", "/outside/secret.txt", "/up/secret.txt", "/outside/", "/outside", "/up/"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
    for target in ["/proc/cwd/Cargo.toml", "/proc/root/etc/passwd", "/loop"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
}

#[test]
#[cfg(unix)]
fn a_symlink_that_stays_inside_is_followed() {
    let directory = Directory::new().file("a/x.txt", "here");
    let (file, inside) = (directory.public().join("a/x.txt"), directory.public().join("a"));
    let site = directory
        .link("a/x.txt", "relative")
        .link(file, "absolute")
        .link(inside, "directory")
        .link("../public/a", "around")
        .serve();
    for target in ["/relative", "/absolute", "/directory/x.txt", "/around/x.txt"] {
        assert_eq!(site.get(target).text(), "here", "{target}");
    }
    assert!(site.get("/directory/").text().contains("x.txt"));
    assert_eq!(site.get("/directory").field("Location"), Some("/directory/"));
}

#[test]
#[cfg(unix)]
fn a_file_that_is_not_regular_is_not_served() {
    let directory = Directory::new();
    let made = std::process::Command::new("mkfifo").arg(directory.public().join("fifo")).status();
    assert!(made.unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(directory.public().join("socket")).unwrap();
    let site = directory.link("/dev/zero", "zero").serve();
    for target in ["/fifo", "/socket", "/zero"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
    drop(socket);
}

#[test]
fn a_part_of_a_file_is_served() {
    let site = Directory::new().file("ten", "0123456789").serve();
    let reply = site.get_with("/ten", "Range: bytes=2-4\r\n");
    assert_eq!((reply.status(), reply.text(), reply.field("Content-Range")), (206, "234", Some("bytes 2-4/10")));
    let reply = site.get_with("/ten", "Range: bytes=10-\r\n");
    assert_eq!((reply.status(), reply.field("Content-Range")), (416, Some("bytes */10")));
    for ignored in ["Range: bytes=0-1,4-5\r\n", "Range: x\r\n", "Range: bytes=2-4\r\nIf-Range: \"other\"\r\n"] {
        assert_eq!(site.get_with("/ten", ignored).text(), "0123456789", "{ignored}");
    }
    let mut client = site.connect();
    client.send("HEAD /ten HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\n\r\n");
    assert_eq!(client.reply_to_head().status(), 200);
}

#[test]
fn a_part_of_a_large_file_begins_where_it_should() {
    let content: Vec<u8> = (0..500_000_u32).map(|at| (at % 251) as u8).collect();
    let site = Directory::new().file("large", &content).serve();
    let reply = site.get_with("/large", "Range: bytes=100001-399999\r\n");
    assert!(reply.body == content[100_001..400_000]);
}

#[test]
fn a_client_that_has_the_file_already_gets_304() {
    let site = Directory::new().file("a.txt", "hello").serve();
    let first = site.get("/a.txt");
    let (etag, date) = (first.field("ETag").unwrap(), first.field("Last-Modified").unwrap());
    for field in [format!("If-None-Match: {etag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
        let mut client = site.connect();
        client.send(format!("GET /a.txt HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("ETag")), (304, Some(etag)));
        client.send("GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().text(), "hello", "something was sent behind a 304");
    }
    assert_eq!(site.get_with("/a.txt", "If-Match: \"other\"\r\n").status(), 412);
}

#[test]
fn a_file_that_changes_gets_another_tag() {
    let site = Directory::new().file("a.txt", "hello").serve();
    let old = site.get("/a.txt").field("ETag").unwrap().to_owned();
    fs::write(site.directory.public().join("a.txt"), "goodbye").unwrap();
    let reply = site.get_with("/a.txt", &format!("If-None-Match: {old}\r\n"));
    assert_eq!((reply.status(), reply.text()), (200, "goodbye"));
}

/// As with a build that sets the time of all files.
#[cfg(unix)]
#[test]
fn a_file_that_changes_gets_another_tag_even_if_it_keeps_its_time_and_length() {
    let site = Directory::new().serve();
    let (public, next) = (site.directory.public(), site.directory.public().join("next"));
    let make = |path: &Path, content: &[u8]| {
        fs::write(path, content).unwrap();
        File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    };
    // A small one, and one that is not kept in memory.
    for length in [5, 100_000] {
        let (name, old, new) = (format!("{length}.txt"), vec![b'a'; length], vec![b'b'; length]);
        let path = public.join(&name);
        make(&path, &old);
        let reply = site.get(&format!("/{name}"));
        assert!(reply.body == old);
        let etag = reply.field("ETag").unwrap().to_owned();
        make(&next, &new);
        fs::rename(&next, &path).unwrap();
        for field in [format!("If-None-Match: {etag}\r\n"), format!("Range: bytes=2-\r\nIf-Range: {etag}\r\n")] {
            let reply = site.get_with(&format!("/{name}"), &field);
            assert_eq!((reply.status(), reply.body == new), (200, true), "{field}");
        }
    }
}

#[test]
fn a_directory_that_cannot_be_served_is_named() {
    let directory = Directory::new().file("file", "");
    for (name, kind) in [("missing", ErrorKind::NotFound), ("file", ErrorKind::NotADirectory)] {
        let path = directory.public().join(name);
        let error = Http::new(&path).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn any_path_stays_inside() {
    let directory = Directory::new().file("a.txt", "inside").file("b/c.txt", "inside");
    let http = Http::new(directory.public()).unwrap();
    let name = "\\.\\.|\\.|a\\.txt|b|c\\.txt|public|secret\\.txt|%2e%2e|%2F|\\\\|C:";
    let path = prop::collection::vec((name, "/|//|%2f|"), 0..8)
        .prop_map(|parts| parts.into_iter().map(|(name, slash)| name + &slash).collect::<String>());
    proptest!(|(path in path)| {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let (_, answer) = http.answer_to(request.as_bytes(), false).unwrap();
        let text = String::from_utf8_lossy(answer.bytes()).into_owned();
        prop_assert!(!text.ends_with("\r\n\r\nsecret"), "{text}");
        prop_assert!(!text.contains(">secret.txt<"), "{text}");
    });
}

#[test]
fn the_directory_is_the_one_that_has_its_path_now() {
    let site = Directory::new().file("a", "first").serve();
    let public = site.directory.public();
    let mut client = site.connect();
    let mut get = |target: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.reply()
    };
    assert_eq!(get("/a").text(), "first");
    fs::remove_dir_all(&public).unwrap();
    for target in ["/a", "/"] {
        let reply = get(target);
        assert_eq!((reply.status(), reply.field("Retry-After")), (503, Some("1")), "{target}");
    }
    fs::create_dir(&public).unwrap();
    assert_eq!(get("/a").status(), 404);
    assert!(!get("/").text().contains("<li>"));
    fs::write(public.join("a"), "second").unwrap();
    assert_eq!(get("/a").text(), "second");
    assert!(get("/").text().contains("<li>"));
}

#[test]
#[cfg(unix)]
fn a_symlink_that_is_switched_switches_the_directory() {
    let directory = Directory::new().file("1/a", "first").file("2/a", "second").file("2/b", "");
    let current = directory.0.join("current");
    let switch = |release: &str| {
        let next = directory.0.join("next");
        std::os::unix::fs::symlink(directory.public().join(release), &next).unwrap();
        fs::rename(next, &current).unwrap();
    };
    switch("1");
    let server = Server::new(Http::new(&current).unwrap()).start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let site = Site { directory: Directory::new(), server: Some(server) };
    assert_eq!((site.get("/a").text(), site.get("/b").status()), ("first", 404));
    switch("2");
    assert_eq!((site.get("/a").text(), site.get("/b").status()), ("second", 200));
    // An absolute link is inside only if it leads into the directory that is served now.
    std::os::unix::fs::symlink(directory.public().join("2/a"), directory.public().join("2/link")).unwrap();
    assert_eq!(site.get("/link").text(), "second");
    switch("1");
    assert_eq!(site.get("/link").status(), 404);
}

#[test]
fn a_missing_directory_is_not_available() {
    let directory = Directory::new();
    let public = directory.public();
    let http = Http::new(&public).unwrap();
    assert!(http.available().is_ok());
    fs::remove_dir(&public).unwrap();
    let error = http.available().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(public.to_str().unwrap()), "{error}");
    fs::write(&public, "").unwrap();
    assert_eq!(http.available().unwrap_err().kind(), ErrorKind::NotADirectory);
    fs::remove_file(&public).unwrap();
    fs::create_dir(&public).unwrap();
    assert!(http.available().is_ok());
    assert!(Http::pages(|_| None).available().is_ok());
}

/// Makes a FIFO in the served directory, and returns its path.
#[cfg(unix)]
fn fifo(directory: &Directory, name: &str) -> PathBuf {
    let path = directory.public().join(name);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
#[cfg(unix)]
fn a_fifo_is_not_opened() {
    let directory = Directory::new().file("a", "");
    let path = fifo(&directory, "fifo");
    fifo(&directory, "index.html");
    let site = directory.link("fifo", "link").serve();
    // It waits for a reader, and fails if the reader closes the FIFO at once.
    let writer = std::thread::spawn({
        let path = path.clone();
        move || File::options().write(true).open(path).unwrap().write_all(b"for the reader")
    });
    for _ in 0..50 {
        for target in ["/fifo", "/link", "/index.html"] {
            assert_eq!(site.get(target).status(), 404, "{target}");
        }
        assert!(site.get("/").text().contains("<li><a href=\"fifo\">fifo</a></li>"));
    }
    assert!(!writer.is_finished(), "the server has opened it");
    assert_eq!(fs::read_to_string(path).unwrap(), "for the reader");
    writer.join().unwrap().unwrap();
}
