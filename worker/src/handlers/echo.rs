use std::io;

use crate::connection::Connection;
use crate::handler::Handler;

/// Sends back what it receives. Its notice is `SHUTDOWN`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Handler for Echo {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            client.send_back()?;
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
