//! The announcement that the server is ready: for the operator, and for the caller of `start`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;

use crate::journal::Journal;
use crate::listen::{self, Address};
use crate::log::Level;

/// The announcement that the server is ready: for the operator, and for the caller of `start`.
#[derive(Debug)]
pub(crate) struct Announcement {
    pub(crate) log: Journal,
    pub(crate) kind: String,
    pub(crate) addresses: Vec<Address>,
    pub(crate) whence: String,
    pub(crate) socket: Option<PathBuf>,
    /// Whether its path was chosen, instead of the one that belongs to the name, where `admin-cli` looks.
    pub(crate) socket_chosen: bool,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) enter: bool,
    pub(crate) started: mpsc::Sender<()>,
}

impl Announcement {
    pub(crate) fn make(self) {
        let Announcement { addresses, whence, .. } = self;
        let pid = std::process::id();
        let socket = self.socket.map(|path| path.display().to_string());
        let admin = socket
            .as_ref()
            .filter(|_| self.socket_chosen)
            .map(|path| format!(", admin socket {path}"))
            .unwrap_or_default();
        let health = self.health.map(|address| format!(", health on {address}")).unwrap_or_default();
        let enter = if self.enter { ", press Enter to stop" } else { "" };
        let doing = match &addresses[..] {
            [] => "running".into(),
            // A URL to click on.
            [Address::Tcp(address)] if self.kind == "http" => format!("listening on http://{address}/"),
            addresses => format!("listening on {}", listen::in_words(addresses)),
        };
        let message = format!("{doing} (pid {pid}{whence}){admin}{health}{enter}");
        let fields = [
            ("address", addresses.iter().find_map(Address::tcp).map(|address| address.to_string()).into()),
            ("addresses", addresses.iter().map(Address::to_string).collect()),
            ("pid", pid.into()),
            ("socket", socket.into()),
            ("health", self.health.map(|address| address.to_string()).into()),
        ];
        self.log.line(Level::Info, "listening", message, fields);
        let _ = self.started.send(()); // The thread that starts the supervisor waits for this.
    }
}
