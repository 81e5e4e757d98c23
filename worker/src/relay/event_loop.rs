//! The thread of a loop: its events, its timers, and what it is asked to do.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event as Reported, EventData, EventFlags};

use super::accept::{self, Taken};
use super::connect;
use super::course;
use super::hub::{Accepted, Command, Hub, PassedOn};
use super::options::Protocol;
use super::pair::{Course, Link, Pair, Parting};
use super::slab::{Key, Slab};
use super::timers::Timers;
use super::tools::Tools;
use crate::event::{Event, panic_message};
use crate::generation::FIRST_MESSAGE_WAIT;
use crate::report::{Activity, Outcome};

/// How many events are taken at once.
const EVENTS: usize = 128;

/// How many clients are accepted before others get a turn.
const BATCH: usize = 32;

/// How long to wait before trying again when the system is out of descriptors, unless a connection ends first.
const EXHAUSTED_WAIT: Duration = Duration::from_secs(1);

/// How many clients may be on their way between loops before a loop accepts no more. They must not use up the descriptors
/// of clients that are served.
const PASSED_ON: usize = 8;

/// How long a loop waits until these have arrived.
const PASSED_ON_WAIT: Duration = Duration::from_millis(1);

/// Names of event sources that are not connections.
const LISTENER: u64 = u64::MAX;
const MAILBOX: u64 = u64::MAX - 1;

pub(super) struct EventLoop {
    tools: Tools,
    pairs: Slab<Pair>,
    timers: Timers,
    /// Connections that had more to do when others got their turn.
    ready: VecDeque<Key>,
    listener: Option<Arc<TcpListener>>,
    listening: Listening,
    /// Something has been done for a connection, or it has ended.
    has_worked: bool,
    has_quit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listening {
    Yes,
    /// The system was out of descriptors, or too many clients were on their way between loops.
    Again(Instant),
    Closed,
}

impl EventLoop {
    /// # Errors
    /// What the system does not give.
    pub(super) fn new(hub: Arc<Hub>, number: usize) -> io::Result<EventLoop> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &hub.mailboxes[number].wake, EventData::new_u64(MAILBOX), EventFlags::IN)?;
        let mut tools = Tools::new(hub, number, epoll);
        let listener = tools.door().listener.clone();
        let mut this = EventLoop {
            tools,
            pairs: Slab::new(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            listener,
            listening: Listening::Closed,
            has_worked: false,
            has_quit: false,
        };
        this.listen()?;
        Ok(this)
    }

    pub(super) fn run(mut self) {
        let nothing = Reported { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [nothing; EVENTS];
        while !self.has_quit {
            let timeout = self.timeout();
            let taken = match epoll::wait(&self.tools.epoll, &mut events, timeout.as_ref()) {
                Ok(taken) => taken,
                Err(rustix::io::Errno::INTR) => 0,
                Err(_) => break, // The epoll itself is broken, which no system does.
            };
            self.tools.now = Instant::now();
            for event in &events[..taken] {
                let (flags, data) = (event.flags, event.data.u64());
                match data {
                    LISTENER => self.accept(),
                    MAILBOX => self.obey(),
                    name => {
                        let (key, is_link) = Key::from(name);
                        self.work_on(key, |pair| {
                            if let Some(side) = pair.side(is_link) {
                                side.hear(flags);
                            }
                        });
                    }
                }
            }
            self.take_turns();
            self.look_at_clock();
            if std::mem::take(&mut self.has_worked) {
                self.tools.hub.pausing.something_ended();
            }
        }
        for key in self.pairs.keys() {
            self.cut_off(key);
        }
        self.tools.hub.pausing.something_ended();
    }

    /// How long until something has to be done. None: until something happens.
    fn timeout(&mut self) -> Option<Timespec> {
        if !self.ready.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let listening = match self.listening {
            Listening::Again(at) => Some(at),
            Listening::Yes | Listening::Closed => None,
        };
        let now = self.tools.now;
        // Where the deadline has passed, its connections were already closed.
        let deadlines = self.tools.door().draining.iter().filter_map(|target| target.deadline());
        let drains = deadlines.filter(|deadline| now < *deadline).min();
        let first = [self.timers.first(), listening, drains].into_iter().flatten().min()?;
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        // A day is as good as for ever.
        Timespec::try_from(wait.min(Duration::from_secs(86_400))).ok()
    }

    /// Gives each connection that has more to do one turn.
    fn take_turns(&mut self) {
        for _ in 0..self.ready.len() {
            if let Some(key) = self.ready.pop_front() {
                self.work_on(key, |pair| pair.is_queued = false);
            }
        }
    }

    fn look_at_clock(&mut self) {
        for key in self.timers.due(self.tools.now) {
            self.work_on(key, |pair| pair.scheduled = None);
        }
        if matches!(self.listening, Listening::Again(at) if at <= self.tools.now) {
            let _ = self.listen(); // It says itself when to try again.
        }
        let now = self.tools.now;
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if self.tools.door().draining.iter().any(|target| is_over(target.deadline())) {
            let mut late = Vec::new();
            for pair in self.pairs.iter() {
                if pair.target.as_ref().is_some_and(|target| is_over(target.deadline())) {
                    late.push(pair.key);
                }
            }
            for key in late {
                self.cut_off(key);
            }
        }
    }

    /// Does all that can be done now for a connection, after `tell` has recorded what has happened to it.
    fn work_on(&mut self, key: Key, tell: impl FnOnce(&mut Pair)) {
        let Some(mut pair) = self.pairs.take(key) else { return };
        self.has_worked = true;
        tell(&mut pair);
        let tools = &mut self.tools;
        let step = panic::catch_unwind(AssertUnwindSafe(|| course::run(&mut pair, tools)));
        let step = step.unwrap_or_else(|panic| {
            let (id, peer, message) = (pair.id, pair.peer, panic_message(&*panic));
            self.tools.hub.say(&Event::Panicked { id, peer, message });
            self.tools.restore();
            ControlFlow::Break(Outcome::Closed)
        });
        match step {
            ControlFlow::Break(outcome) => self.end(pair, outcome),
            ControlFlow::Continue(()) if pair.watch(&self.tools).is_err() => self.end(pair, Outcome::Closed),
            ControlFlow::Continue(()) => {
                if pair.is_starved {
                    if self.make_room() {
                        pair.attempts = None;
                        pair.again = true;
                    } else {
                        self.tools.hub.tell(|| Command::MakeRoom);
                    }
                }
                if pair.again && !pair.is_queued {
                    pair.is_queued = true;
                    self.ready.push_back(key);
                }
                let due = pair.due;
                self.timers.set(key, &mut pair.scheduled, due);
                self.pairs.put(key, pair);
            }
        }
    }

    fn force(&mut self, key: Key) {
        if let Some(mut pair) = self.pairs.take(key) {
            pair.resets_client = true;
            pair.reset_link();
            self.end(pair, Outcome::Forced);
        }
    }

    /// Its time is over. A client that has been sent its last answer may not have received it yet, and a reset would
    /// destroy it.
    fn cut_off(&mut self, key: Key) {
        let Some(pair) = self.pairs.take(key) else { return };
        if let Course::Parting(Parting { outcome, until: Some(_) }) = pair.course {
            return self.end(pair, outcome);
        }
        self.pairs.put(key, pair);
        self.force(key);
    }

    /// The connection is over.
    fn end(&mut self, mut pair: Box<Pair>, outcome: Outcome) {
        self.has_worked = true;
        let hub = self.tools.hub.clone();
        self.timers.forget(pair.key, &mut pair.scheduled);
        self.pairs.release(pair.key);
        pair.end_hold(&self.tools);
        pair.starve(false, &self.tools);
        let info = pair.info();
        if let Course::Messages(_) = pair.course {
            pair.close_link(); // It is between two messages; otherwise it was reset.
        }
        let is_refused = pair.is_refused();
        let Pair { client, link, target, leaving, resets_client, .. } = *pair;
        if resets_client {
            client.reset();
        } else {
            drop(client);
        }
        drop(link);
        if is_refused {
            hub.end_refusal();
        } else {
            hub.connections.fetch_sub(1, Ordering::Relaxed);
            hub.mailboxes[self.tools.number].load.fetch_sub(1, Ordering::Relaxed);
            hub.say(&Event::Ended { connection: &info, outcome, error: None });
        }
        for ended in leaving.into_iter().flatten() {
            let _ = ended.send(outcome); // It may not be waited for any more.
        }
        if let Some(target) = target {
            target.ended(outcome, || info);
        }
        if matches!(self.listening, Listening::Again(_)) {
            let _ = self.listen();
        }
    }

    /// Registers the listener, so that clients are reported.
    fn listen(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if self.tools.hub.starved.load(Ordering::Relaxed) > 0 {
            self.listening = Listening::Again(self.tools.now + EXHAUSTED_WAIT);
            return Ok(());
        }
        // One of the loops is woken, not all of them.
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        let added = epoll::add(&self.tools.epoll, &**listener, EventData::new_u64(LISTENER), flags);
        self.listening = match added {
            Ok(()) => Listening::Yes,
            Err(_) => Listening::Again(self.tools.now + EXHAUSTED_WAIT),
        };
        Ok(added?)
    }

    fn accept(&mut self) {
        for _ in 0..BATCH {
            if self.tools.door().listener.is_none() {
                return; // What waits there is not for this relay any more.
            }
            let Some(listener) = &self.listener else { return };
            if self.tools.hub.starved.load(Ordering::Relaxed) > 0 {
                return self.pause(EXHAUSTED_WAIT);
            }
            if self.tools.hub.passed_on.load(Ordering::Relaxed) >= PASSED_ON {
                return self.pause(PASSED_ON_WAIT);
            }
            match accept::take(listener) {
                Taken::Client(accepted) => {
                    let is_in_reserve = self.tools.hub.is_in_reserve(&accepted.socket);
                    self.deal(accepted);
                    if is_in_reserve && !self.make_room() {
                        return self.pause(EXHAUSTED_WAIT);
                    }
                }
                Taken::None => return,
                Taken::Vanished => {}
                Taken::Failed(error) => {
                    if connect::is_exhaustion(error) && self.make_room() {
                        continue;
                    }
                    self.tools.hub.report_exhausted(&error.into());
                    return self.pause(EXHAUSTED_WAIT);
                }
                Taken::ShutDown(error) => return self.tools.hub.fail(error),
            }
        }
    }

    /// Accepts nothing for a while.
    fn pause(&mut self, wait: Duration) {
        if let Some(listener) = &self.listener {
            let _ = epoll::delete(&self.tools.epoll, &**listener);
            self.listening = Listening::Again(self.tools.now + wait);
        }
    }

    /// Keeps a client, or gives it to the loop with the fewest.
    fn deal(&mut self, accepted: Accepted) {
        let hub = self.tools.hub.clone();
        let is_full = hub.connections.load(Ordering::Relaxed) >= hub.options.max_connections;
        if is_full && !self.give_up_idlest() {
            return self.pass_on(accepted);
        }
        hub.connections.fetch_add(1, Ordering::Relaxed);
        match accept::least_loaded(&hub, self.tools.number) {
            None => self.adopt(accepted),
            Some(other) => {
                // By the time the other loop gets to it, the port may have closed.
                let target = self.tools.serving().filter(|serving| serving.enter(true)).cloned();
                other.send(Command::Adopt(Accepted { target, ..accepted }));
            }
        }
    }

    /// Has the other loops, one after the other, close an idle client for this one. Refuses it if none of them has any.
    fn pass_on(&mut self, accepted: Accepted) {
        let hub = self.tools.hub.clone();
        let asked = accepted.asked + 1;
        let can_be_idle = matches!(hub.options.protocol, Protocol::Http(_));
        if !can_be_idle || asked == hub.mailboxes.len() {
            return self.refuse(accepted);
        }
        let next = (self.tools.number + 1) % hub.mailboxes.len();
        hub.mailboxes[next].send(Command::Replace(Accepted { asked, ..accepted }, PassedOn::new(&hub)));
    }

    /// Frees a descriptor: that of an idle connection to the program, which its client does not notice, or else that of
    /// a client. Returns false if there is none of either here.
    fn make_room(&mut self) -> bool {
        let is_idle = |pair: &&Pair| pair.activity() == Activity::Idle && matches!(pair.link, Link::Open(_));
        let Some(key) = self.pairs.iter().find(is_idle).map(|pair| pair.key) else { return self.give_up_idlest() };
        if let Some(mut pair) = self.pairs.take(key) {
            pair.close_link();
            self.pairs.put(key, pair);
        }
        true
    }

    /// Closes the client that has been idle longest: one that wants something counts for more. Returns false if there
    /// is no idle one here.
    fn give_up_idlest(&mut self) -> bool {
        let first_since = self.tools.now.checked_sub(FIRST_MESSAGE_WAIT);
        // The first message of a client that has just connected is most likely on its way.
        let is_new =
            |pair: &Pair| pair.idle_since == pair.accepted && first_since.is_none_or(|since| since < pair.accepted);
        let is_idle = |pair: &Pair| pair.activity() == Activity::Idle && !pair.client.readable;
        let idle = self.pairs.iter().filter(|pair| is_idle(pair) && !is_new(pair));
        let Some(key) = idle.min_by_key(|pair| pair.idle_since).map(|pair| pair.key) else { return false };
        if let Some(pair) = self.pairs.take(key) {
            self.end(pair, Outcome::Closed);
        }
        true
    }

    fn adopt(&mut self, accepted: Accepted) {
        let key = self.pairs.reserve();
        let pair = accept::admit(accepted, key, &self.tools);
        self.pairs.put(key, pair);
        self.work_on(key, |_| {});
    }

    fn refuse(&mut self, accepted: Accepted) {
        let peer = accepted.peer;
        if let Some(target) = self.tools.serving() {
            target.count_refused();
        }
        self.tools.hub.say(&Event::Refused { peer });
        let key = self.pairs.reserve();
        let pair = accept::refused(accepted, key, &self.tools);
        if self.tools.hub.reserve_refusal() {
            self.pairs.put(key, pair);
            self.work_on(key, |_| {});
        } else {
            self.pairs.release(key);
        }
    }

    fn obey(&mut self) {
        let hub = self.tools.hub.clone();
        for command in hub.mailboxes[self.tools.number].take() {
            match command {
                Command::Adopt(accepted) => self.adopt(accepted),
                Command::Replace(accepted, passed_on) => {
                    drop(passed_on);
                    match self.tools.door().listener {
                        Some(_) => self.deal(accepted),
                        None => self.refuse(accepted),
                    }
                }
                Command::Look(seen) => {
                    self.look();
                    drop(seen);
                }
                Command::List(target, to) => {
                    for pair in self.pairs.iter().filter(|pair| pair.belongs_to(target)) {
                        let _ = to.send(pair.info()); // It may not be waited for any more.
                    }
                }
                Command::Count(to) => {
                    let _ = to.send(self.pairs.iter().filter(|pair| pair.has_message_under_way()).count());
                }
                Command::Leave { id, target, found, ended } => {
                    let found_one = self.pairs.iter().find(|pair| pair.id == id && pair.belongs_to(target));
                    if let Some((key, info)) = found_one.map(|pair| (pair.key, pair.info())) {
                        let _ = found.send(info);
                        self.work_on(key, |pair| pair.leaving.get_or_insert_default().push(ended));
                    }
                }
                Command::Force(id) => {
                    let key = self.pairs.iter().find(|pair| pair.id == id).map(|pair| pair.key);
                    if let Some(key) = key {
                        self.force(key);
                    }
                }
                Command::MakeRoom => _ = self.make_room(),
                Command::Quit => self.has_quit = true,
            }
        }
    }

    /// The door has changed: a generation has begun or stopped serving, or the listener was closed.
    fn look(&mut self) {
        if self.tools.door().listener.is_none() {
            if let Some(listener) = self.listener.take() {
                // Another thread may hold the same socket for a while, which would keep it registered.
                if self.listening == Listening::Yes {
                    let _ = epoll::delete(&self.tools.epoll, &*listener);
                }
                self.listening = Listening::Closed;
            }
        }
        for key in self.pairs.keys() {
            self.work_on(key, |_| {});
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // Threads that wait for an answer are not left waiting.
        self.tools.hub.mailboxes[self.tools.number].close();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::http::Forwarded;
    use super::super::options::Options;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// The loops of a relay that serves one client. Their threads are the test's.
    fn loops(protocol: Protocol, loops: usize) -> (Vec<EventLoop>, Arc<TcpListener>) {
        let options = Options {
            protocol,
            max_connections: 1,
            wait: Duration::ZERO,
            answer_within: None,
            ids: crate::generation::Ids::default(),
        };
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let hub = Hub::new(listener.clone(), false, options, Box::new(|_| {}), loops).unwrap();
        let hub = Arc::new(hub);
        let loops = (0..loops).map(|number| EventLoop::new(hub.clone(), number).unwrap()).collect();
        (loops, listener)
    }

    /// A client that has sent this.
    fn client(listener: &TcpListener, bytes: &[u8]) -> (Accepted, TcpStream) {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(bytes).unwrap();
        let Taken::Client(accepted) = accept::take(listener) else { panic!("there is no client") };
        while rustix::io::ioctl_fionread(&accepted.socket).unwrap() < bytes.len() as u64 {
            std::thread::yield_now();
        }
        (accepted, client)
    }

    /// A loop, and a client that has sent this. A turn reads a few bytes of it.
    fn with_client(protocol: Protocol, bytes: &[u8]) -> (EventLoop, Accepted, TcpStream) {
        let (mut loops, listener) = loops(protocol, 1);
        let mut this = loops.remove(0);
        this.tools.scratch = [0; 2].into();
        let (accepted, client) = client(&listener, bytes);
        (this, accepted, client)
    }

    #[test]
    fn a_client_is_refused_only_if_no_loop_has_an_idle_one() {
        let (mut loops, listener) = loops(Protocol::Http(Forwarded::Off), 3);
        let number_of =
            |this: &EventLoop, is_refused| this.pairs.iter().filter(|pair| pair.is_refused() == is_refused).count();
        let (accepted, mut idle) = client(&listener, b"");
        idle.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        loops[2].deal(accepted);
        let key = loops[2].pairs.keys()[0];
        // As if its last message had just ended.
        loops[2].work_on(key, |pair| pair.idle_since += Duration::from_nanos(1));
        let comes = |loops: &mut [EventLoop]| {
            let (accepted, client) = client(&listener, b"GET");
            loops[0].deal(accepted);
            loops.iter_mut().for_each(EventLoop::obey);
            client
        };
        let _next = comes(&mut loops);
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        assert_eq!((number_of(&loops[2], false), number_of(&loops[2], true)), (1, 0));
        // This one has begun its message.
        let _one_too_many = comes(&mut loops);
        assert_eq!((number_of(&loops[2], false), number_of(&loops[2], true)), (1, 1));
        let hub = &loops[0].tools.hub;
        assert_eq!((hub.connections.load(Ordering::Relaxed), hub.passed_on.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn a_connection_that_events_report_again_and_again_gets_no_more_turns_than_others() {
        let (mut this, accepted, _client) = with_client(Protocol::Tcp, &[7; 1000]);
        this.refuse(accepted);
        let key = this.pairs.keys()[0];
        for _ in 0..3 {
            this.work_on(key, |pair| pair.client.hear(EventFlags::IN));
            assert_eq!(this.ready, [key]);
        }
        // After its turn it waits for the next one.
        for _ in 0..3 {
            this.take_turns();
            assert_eq!(this.ready, [key]);
        }
    }

    #[test]
    fn a_client_that_sends_empty_lines_without_end_gets_no_more_turns_than_others() {
        let (mut this, accepted, _client) = with_client(Protocol::Http(Forwarded::Off), &b"\r\n".repeat(500));
        this.adopt(accepted);
        let key = this.pairs.keys()[0];
        for _ in 0..3 {
            assert_eq!(this.ready, [key]);
            this.take_turns();
        }
    }
}
