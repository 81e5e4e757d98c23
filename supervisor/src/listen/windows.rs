//! Listening sockets for programs: on Windows there are none. A socket can be given to another process there, but only
//! to one that cooperates.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::address::{Address, ProgramSocket};

/// The file of a socket.
#[derive(Debug)]
pub(crate) enum SocketFile {}

impl SocketFile {
    pub(crate) fn kept_flag(&self) -> Arc<AtomicBool> {
        match *self {}
    }
}

/// A bound, listening socket.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: Address,
    pub(crate) name: Option<String>,
    pub(crate) socket: Infallible,
    pub(crate) file: Option<SocketFile>,
}

impl Bound {
    pub(crate) fn of_tcp(_listener: &TcpListener) -> io::Result<Bound> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn again(&self, _listen: &ProgramSocket) -> io::Result<Bound> {
        match self.socket {}
    }

    pub(crate) fn try_clone(&self) -> io::Result<Bound> {
        match self.socket {}
    }

    pub(crate) fn into_tcp(self) -> Option<TcpListener> {
        match self.socket {}
    }

    /// # Errors
    /// Always.
    pub(crate) fn new(_listen: &ProgramSocket) -> io::Result<Bound> {
        Err(io::Error::new(ErrorKind::Unsupported, "on Windows a program has to bind its address itself"))
    }
}
