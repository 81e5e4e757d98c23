//! An axum server that `supervisor exec` replaces with its next version: it uses the socket that it inherits, and on
//! SIGTERM it answers the requests that it has begun.
//!
//! ```text
//! cargo build -p examples --example 8-axum
//! supervisor exec --listen 3000 --ready http=http://127.0.0.1:3000/ -- target/debug/examples/8-axum
//! ```
//!
//! Then change it, build it again, and `admin-cli restart`.

// ANCHOR: server
use std::future::{Ready, pending, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderValue, header::CONNECTION};
use axum::{Router, middleware::map_response, response::Response, routing::get, serve::Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> io::Result<()> {
    // The socket of `--listen`, or a port of its own for a run by hand.
    let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(inherited) => {
            inherited.set_nonblocking(true)?;
            TcpListener::from_std(inherited)?
        }
        None => TcpListener::bind("127.0.0.1:3000").await?,
    };
    let stopping = stop_signal()?;
    let app = Router::new().route("/", get(|| async { "hello\n" })).layer(map_response(last_answer(stopping.clone())));

    // axum closes connections that have sent no request yet. One that was accepted just before the signal is about to
    // send its first, and one that is kept alive may send another: so they have a second for it.
    let mut asked = stopping.clone();
    let shutdown = async move {
        let _ = asked.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    axum::serve(UntilStop { listener, stopping }, app).with_graceful_shutdown(shutdown).await
}

/// Becomes true on the signal with which a supervisor stops a program: SIGTERM, or Ctrl-Break on Windows.
fn stop_signal() -> io::Result<watch::Receiver<bool>> {
    #[cfg(unix)]
    let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(windows)]
    let mut signal = tokio::signal::windows::ctrl_break()?;
    let (sender, stopping) = watch::channel(false);
    tokio::spawn(async move {
        signal.recv().await;
        let _ = sender.send(true);
        sender.closed().await;
    });
    Ok(stopping)
}

/// Announces to each client, with the answer to its last request, that its connection ends.
fn last_answer(stopping: watch::Receiver<bool>) -> impl Fn(Response) -> Ready<Response> + Clone {
    move |mut response| {
        if *stopping.borrow() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        ready(response)
    }
}

/// Accepts nothing after the stop signal, because the next program does.
struct UntilStop {
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
}

impl Listener for UntilStop {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let stop = async {
            let _ = self.stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::select! {
            biased;
            () = stop => pending().await,
            accepted = Listener::accept(&mut self.listener) => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
// ANCHOR_END: server
