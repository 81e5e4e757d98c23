//! A program behind a relay: it is asked to end when its connections have ended.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use worker::relay::Upstream;
use worker::{Closed, ConnectionInfo, Counts, ServerError};

use super::generation::Child;
use super::process::{Running, UNWANTED};
use super::relaying::Relaying;
use crate::journal::Journal;
use crate::server::deadline::Deadline;
use crate::server::{Availability, Clients, Closer, Ended, Failure, Generation, Watcher, close_on_a_thread};

/// How long after the deadline of its drain a program that has not ended is killed.
pub(super) const KILLED_AFTER: Duration = Duration::from_secs(5);

/// A program behind a relay that is ready.
#[derive(Debug)]
pub(super) struct Relayed {
    child: Child,
    connections: Arc<Connections>,
    relaying: Arc<Relaying>,
    /// Where the relay logs what happens to its clients.
    log: Journal,
}

/// The connections of a program, from its readiness to the end of its drain. A thread named `drain` waits for that end.
#[derive(Debug)]
pub(super) struct Connections {
    running: Arc<Running>,
    upstream: Upstream,
    /// How long its clients get when the program ends by itself: some of them are still reading an answer that has
    /// already arrived.
    grace: Duration,
    course: Mutex<Course>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Serving,
    /// The connections drain, and the program is killed at this time.
    Draining {
        kill: Deadline,
    },
    /// The connections have ended, and the program has been asked to end.
    Asked,
}

impl Connections {
    /// The connections of a program that is ready.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn new(running: Arc<Running>, upstream: Upstream, grace: Duration) -> io::Result<Arc<Connections>> {
        let (course, changed) = (Mutex::new(Course::Serving), Condvar::new());
        let connections = Arc::new(Connections { running, upstream, grace, course, changed });
        let waits = connections.clone();
        thread::Builder::new().name("drain".into()).spawn(move || waits.drain())?;
        Ok(connections)
    }

    /// Waits until a drain has begun and then for its end. After that the program has to end, too.
    fn drain(&self) {
        let serves = |course: &mut Course| *course == Course::Serving;
        drop(self.changed.wait_while(self.course(), serves).unwrap_or_else(PoisonError::into_inner));
        let report = self.upstream.clone().wait();
        {
            let mut course = self.course();
            if let Course::Draining { kill } = *course {
                *course = Course::Asked;
                self.ask(kill);
            }
        }
        self.running.has_drained(report);
    }

    /// Gives the program the clients, unless its drain has begun: it may have ended just now, and master control is yet
    /// to hear of that.
    fn serve(&self) {
        let course = self.course();
        if *course == Course::Serving {
            self.upstream.serve();
        }
    }

    /// Records that the program has ended. If it was still serving, its drain begins now.
    pub(super) fn program_has_ended(&self) {
        // Under the lock from the beginning, so that nothing makes it serve in between.
        let mut course = self.course();
        self.upstream.lost();
        if *course == Course::Serving {
            let deadline = Deadline::after(Instant::now(), self.grace);
            self.upstream.retire_by(deadline.at());
            self.begin(&mut course, deadline);
        }
    }

    fn begin(&self, course: &mut Course, deadline: Deadline) {
        self.begin_until(course, deadline.later(KILLED_AFTER));
    }

    fn begin_until(&self, course: &mut Course, kill: Deadline) {
        if *course == Course::Serving {
            self.running.set_in_rotation(false);
        }
        match course {
            Course::Serving | Course::Draining { .. } => *course = Course::Draining { kill },
            // The signal is sent only once.
            Course::Asked => self.ask(kill),
        }
        self.changed.notify_all();
    }

    /// Asks the program to end, unless it has ended already. After an end of its own, the processes that it left behind
    /// are killed without this, and sooner.
    fn ask(&self, kill: Deadline) {
        if !self.running.is_over() {
            self.running.stop_by(kill);
        }
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        // Each change is an assignment that cannot panic.
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relayed {
    pub(super) fn new(child: Child, connections: Arc<Connections>, relaying: Arc<Relaying>, log: Journal) -> Relayed {
        Relayed { child, connections, relaying, log }
    }
}

impl Generation for Relayed {
    fn serve(&self) {
        self.relaying.log_to(self.log.clone());
        self.connections.serve();
    }

    fn serve_on_trial(&self) {
        self.serve();
    }

    fn serve_again(&self) {
        self.serve();
    }

    fn retire_by(&self, deadline: Deadline, spread: Duration) {
        let mut course = self.connections.course();
        self.connections.upstream.retire_over(spread, deadline.at());
        self.connections.begin(&mut course, deadline);
    }

    fn stop_by(&self, deadline: Deadline, spread: Duration) {
        let mut course = self.connections.course();
        self.connections.upstream.stop_over(spread, deadline.at());
        self.connections.begin(&mut course, deadline);
    }

    fn move_deadline(&self, deadline: Deadline) {
        let mut course = self.connections.course();
        self.connections.upstream.move_deadline(deadline.at());
        self.connections.begin(&mut course, deadline);
    }

    fn clients(&self) -> Option<&dyn Clients> {
        Some(self)
    }

    fn upstream(&self) -> Option<SocketAddr> {
        Some(self.connections.upstream.address())
    }

    fn evidence(&self) -> Option<String> {
        self.child.evidence()
    }

    fn is_known_to_serve(&self) -> bool {
        self.child.is_known_to_serve()
    }

    fn unproved(&self) -> Option<Failure> {
        self.child.unproved()
    }

    fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    fn says(&self) -> Option<String> {
        self.child.says()
    }

    fn check(&self, limit: Duration) {
        self.child.check(limit);
    }

    fn available(&self, done: Availability) {
        self.child.available(done);
    }

    fn set_in_rotation(&self, in_rotation: bool) {
        self.child.set_in_rotation(in_rotation);
    }

    fn give_up(&mut self, why: &str) {
        self.child.give_up(why);
    }

    fn signal(&self, signal: i32) -> bool {
        self.child.signal(signal)
    }

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        self.child.ended()
    }
}

impl Clients for Relayed {
    fn counts(&self) -> Counts {
        self.connections.upstream.counts()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        self.connections.upstream.connections()
    }

    fn watcher(&self) -> Watcher {
        let upstream = self.connections.upstream.clone();
        Box::new(move || upstream.connections())
    }

    fn close(&self, id: u64, grace: Duration, done: Closer) -> io::Result<Option<ConnectionInfo>> {
        let upstream = self.connections.upstream.clone();
        let close = move || -> Option<Closed> { upstream.close(id, grace) };
        close_on_a_thread(self.connections(), id, close, done)
    }
}

/// A program that is dropped before its end disconnects its clients at once.
impl Drop for Relayed {
    fn drop(&mut self) {
        let mut course = self.connections.course();
        if *course == Course::Serving {
            let now = Instant::now();
            // Not `stop_by`, which would close the port for other programs, too.
            self.connections.upstream.retire_by(now);
            self.connections.begin_until(&mut course, Deadline::after(now, UNWANTED));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream};

    use worker::relay::{Options, Protocol, Relay};

    use super::super::process::unguarded;
    use super::*;

    #[test]
    fn a_program_that_has_just_ended_gets_no_clients_when_it_is_told_to_serve() {
        let options = Options {
            protocol: Protocol::Tcp,
            max_connections: 1,
            wait: Duration::from_secs(600),
            answer_within: None,
            ids: worker::Ids::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(listener, options, |_| {}).unwrap();
        // Its port is still there, so that a client could reach it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = relay.upstream(port.local_addr().unwrap());
        let (running, _steps, _lives) = unguarded::running(unguarded::Control::default());
        let connections = Connections::new(running, upstream.clone(), Duration::ZERO).unwrap();
        connections.program_has_ended();
        // Master control is yet to hear of that end.
        connections.serve();
        let _client = TcpStream::connect(relay.address()).unwrap();
        let limit = Instant::now() + Duration::from_secs(45);
        while relay.counts().held == 0 && upstream.counts().total == 0 {
            assert!(Instant::now() < limit, "the client is neither held nor served");
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!((relay.counts().held, upstream.counts().total), (1, 0));
    }
}
