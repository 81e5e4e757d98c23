//! The handler behind a server, on real sockets.

#![allow(clippy::unwrap_used)]

#[cfg(unix)]
mod cache;
mod connections;
mod files;
mod pages;
mod requests;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::server::{Handle, Server};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own, removed at the end. Its subdirectory `public` is served.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("worker-http-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("public")).unwrap();
        fs::write(directory.join("secret.txt"), "secret").unwrap();
        Directory(directory)
    }

    fn public(&self) -> PathBuf {
        self.0.join("public")
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Directory {
        let path = self.public().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    #[cfg(unix)]
    fn link(self, target: impl AsRef<Path>, name: &str) -> Directory {
        std::os::unix::fs::symlink(target, self.public().join(name)).unwrap();
        self
    }

    fn serve(self) -> Site {
        self.serve_with(|http| http)
    }

    fn serve_with(self, change: impl FnOnce(Http) -> Http) -> Site {
        let http = change(Http::new(self.public()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Site { directory: self, server: Some(Server::new(http).start(listener).unwrap()) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory that is served. Stopped at the end.
struct Site {
    directory: Directory,
    server: Option<Handle>,
}

impl Site {
    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.server.as_ref().unwrap().stopper().address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    fn get(&self, target: &str) -> Reply {
        self.get_with(target, "")
    }

    fn get_with(&self, target: &str, fields: &str) -> Reply {
        let mut client = self.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.reply()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stopper().stop(Duration::ZERO);
            let _ = server.join();
        }
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn reply(&mut self) -> Reply {
        let reply = self.reply_to_head();
        self.rest_of(reply)
    }

    /// This reply, with its body.
    fn rest_of(&mut self, mut reply: Reply) -> Reply {
        let length = reply.field("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body.resize(length, 0);
        self.0.read_exact(&mut reply.body).unwrap();
        reply
    }

    fn reply_to_head(&mut self) -> Reply {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            header.push(byte[0]);
        }
        Reply { header: String::from_utf8(header).unwrap(), body: Vec::new() }
    }

    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

struct Reply {
    header: String,
    body: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.header.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.header.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}
