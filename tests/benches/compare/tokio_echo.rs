//! The peer of `supervisor echo`: a typical echo server on tokio that notifies its clients when it is asked to end.
//! This benchmark runs itself again to be that server, in a process of its own.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Serves on this port until SIGTERM, and then until the last client has closed its connection.
pub fn run(port: u16) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(port))
}

async fn serve(port: u16) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let (stop, stopped) = watch::channel(());
    loop {
        select! {
            accepted = listener.accept() => drop(tokio::spawn(client(accepted?.0, stopped.clone()))),
            _ = terminate.recv() => break,
        }
    }
    drop((listener, stopped));
    stop.send_replace(());
    // Each client has a receiver.
    stop.closed().await;
    Ok(())
}

async fn client(mut stream: TcpStream, mut stopped: watch::Receiver<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; 1024];
    loop {
        select! {
            length = stream.read(&mut message) => match length? {
                0 => return Ok(()),
                length => stream.write_all(&message[..length]).await?,
            },
            _ = stopped.changed() => break,
        }
    }
    stream.write_all(b"SHUTDOWN\n").await?;
    stream.shutdown().await?;
    while stream.read(&mut message).await? > 0 {}
    Ok(())
}
