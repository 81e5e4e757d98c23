//! What is outside of master control: generations, builds, and the events that they are going to send.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use worker::{ConnectionInfo, Counts, ServerError};

use crate::event::Event;
use crate::server::{Builder, Clients, Closer, Ended, Generation, Opener, Watcher};

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) generations: Vec<Pretended>,
    /// Builds that have begun and are not done.
    pub(super) building: VecDeque<u64>,
    pub(super) events: VecDeque<Event>,
    /// No generation is built any more.
    pub(super) closed: bool,
    /// Nothing can connect, so no thread that accepts can be woken.
    pub(super) unreachable: bool,
}

/// A generation that only pretends.
#[derive(Debug)]
pub(super) struct Pretended {
    pub(super) build: u64,
    pub(super) accepting: bool,
    /// Does nothing that it is asked for, until it is given up.
    pub(super) hangs: bool,
    pub(super) clients: usize,
    /// When its clients have to be gone. None: it serves.
    pub(super) deadline: Option<Instant>,
    pub(super) finished: bool,
    /// Master control has dropped its handle.
    pub(super) dropped: bool,
}

pub(super) type Shared = Arc<Mutex<World>>;

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

impl World {
    pub(super) fn generation(&mut self, build: u64) -> &mut Pretended {
        self.generations.iter_mut().find(|generation| generation.build == build).unwrap()
    }

    /// The one that accepts.
    pub(super) fn accepting(&mut self) -> Option<&mut Pretended> {
        self.generations.iter_mut().find(|generation| generation.accepting)
    }

    fn open(&mut self, build: u64) {
        let generation = self.generation(build);
        if !generation.accepting && generation.deadline.is_none() {
            generation.accepting = true;
            self.events.push_back(Event::Accepting { build });
        }
    }

    fn drain(&mut self, build: u64, deadline: Instant) {
        let generation = self.generation(build);
        generation.deadline = Some(deadline);
        generation.accepting = generation.accepting && generation.hangs;
    }

    /// Those that are done report it.
    pub(super) fn settle(&mut self, now: Instant) {
        for generation in &mut self.generations {
            let over = generation.deadline.is_some_and(|deadline| generation.clients == 0 || deadline <= now);
            if over && !generation.hangs && !generation.finished {
                (generation.finished, generation.clients) = (true, 0);
                self.events.push_back(Event::Finished { build: generation.build });
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct PretendedBuilder {
    pub(super) world: Shared,
    pub(super) overlaps: bool,
}

impl Builder for PretendedBuilder {
    fn build(&mut self, build: u64) {
        let mut world = lock(&self.world);
        let runs = |generation: &Pretended| generation.accepting && !generation.hangs && !generation.finished;
        assert!(self.overlaps || !world.generations.iter().any(runs), "the last one is in the way: {world:?}");
        assert!(!world.closed, "build {build} begins while the supervisor ends");
        world.building.push_back(build);
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn close(&mut self) {
        lock(&self.world).closed = true;
    }
}

/// What master control has of a generation that only pretends.
#[derive(Debug)]
pub(super) struct PretendedHandle {
    world: Shared,
    build: u64,
}

impl PretendedHandle {
    pub(super) fn new(world: &Shared, build: u64) -> Box<PretendedHandle> {
        let generation = Pretended {
            build,
            accepting: false,
            hangs: false,
            clients: 0,
            deadline: None,
            finished: false,
            dropped: false,
        };
        lock(world).generations.push(generation);
        Box::new(PretendedHandle { world: world.clone(), build })
    }
}

impl Generation for PretendedHandle {
    fn opener(&self) -> Opener {
        let (world, build) = (self.world.clone(), self.build);
        Box::new(move |_| lock(&world).open(build))
    }

    fn retire_by(&self, deadline: Instant, successor: Opener) -> io::Result<()> {
        let mut world = lock(&self.world);
        if world.unreachable && world.generation(self.build).accepting {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        world.drain(self.build, deadline);
        if !world.generation(self.build).hangs {
            drop(world);
            successor(None);
        }
        Ok(())
    }

    fn stop_by(&self, deadline: Instant) {
        lock(&self.world).drain(self.build, deadline);
    }

    fn move_deadline(&self, deadline: Instant) {
        lock(&self.world).drain(self.build, deadline);
    }

    fn clients(&self) -> Option<&dyn Clients> {
        Some(self)
    }

    fn check(&self, _limit: Duration) {
        let mut world = lock(&self.world);
        let accepting = !world.generation(self.build).hangs;
        world.events.push_back(Event::Checked { build: self.build, accepting });
    }

    fn give_up(&mut self, why: &str) {
        let mut world = lock(&self.world);
        let generation = world.generation(self.build);
        (generation.hangs, generation.accepting) = (false, false);
        // The real one has a grace period of its own; the test's clock does not know it.
        generation.deadline.get_or_insert_with(Instant::now);
        let reason = why.to_owned();
        world.events.push_back(Event::Exited { build: self.build, reason, clean: false });
    }

    fn signal(&self, _signal: i32) {}

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        assert!(lock(&self.world).generation(self.build).finished, "it was asked for its end before that came");
        Ok(Ended::default())
    }
}

impl Clients for PretendedHandle {
    fn counts(&self) -> Counts {
        Counts { now: lock(&self.world).generation(self.build).clients, ..Counts::default() }
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    fn watcher(&self) -> Watcher {
        Box::new(Vec::new)
    }

    fn close(&self, _id: u64, _grace: Duration, _done: Closer) -> io::Result<Option<ConnectionInfo>> {
        Ok(None)
    }
}

impl Drop for PretendedHandle {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        let generation = world.generation(self.build);
        (generation.dropped, generation.accepting) = (true, false);
    }
}
