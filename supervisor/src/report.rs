//! How a stop went.

use crate::event::Trigger;
use crate::exit::Exit;
use crate::protocol::{self, ProgramConnection};
use crate::server::Ended;
use crate::server::program_end::ProgramEnd;
use crate::wire;

/// How a stop went.
#[derive(Debug, Clone)]
pub struct Report {
    /// What asked for it.
    pub by: Trigger,
    /// What became of the connections.
    pub drain: worker::DrainReport,
    /// How the program ended, if the server was one.
    pub program: Option<ProgramEnd>,
    /// How many of its processes had to be killed.
    pub killed: usize,
    /// The connections of a program that accepts them itself, as of the last look before its end.
    pub held_up_by: Vec<ProgramConnection>,
}

impl Report {
    /// The exit code that says how the stop went.
    pub fn exit(&self) -> Exit {
        Exit::from(&self.wire())
    }

    pub(crate) fn wire(&self) -> protocol::Report {
        let Report { by: _, drain, program, killed, held_up_by } = self.clone();
        let ended = Ended { drain, program, killed, held_up_by };
        wire::report(&self.by.to_string(), &ended)
    }
}
