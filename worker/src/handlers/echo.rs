use std::io::{self, Read, Write};

use crate::connection::Connection;
use crate::handler::Handler;

/// Sends back what it gets. When the server goes away, each client is told `SHUTDOWN`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Handler for Echo {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        let mut message = [0; 8 * 1024];
        while client.next_message() {
            let length = client.read(&mut message)?;
            client.write_all(&message[..length])?;
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn refusal(&self) -> &[u8] {
        b"Too many connections, try again later\n"
    }
}
