//! The processes that hold a TCP port.
//!
//! Linux shows in proc(5) which sockets listen, and which process has them open if that process can be inspected: if it
//! belongs to this user, or this user is root, and it is not in another container. Other systems show only whether a
//! connection is accepted.
//!
//! ```no_run
//! for holder in mastercontrol::holder::holders(8080)? {
//!     match holder.process {
//!         Some(process) => println!("{} is held by {process}", holder.address),
//!         None => println!("{} is held", holder.address),
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod ending;
mod find;

pub use ending::{End, Ended, Ending, Show};
pub use find::{Holder, Process, User, holders};
pub(crate) use find::{holder_of, time_to_end};
