//! The world outside master control: generations, builds, and the events that they are going to send.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use worker::{ConnectionInfo, Counts, ServerError};

use crate::event::Event;
use crate::server::deadline::Deadline;
use crate::server::{Availability, Builder, Clients, Closer, Ended, Failure, Generation, Watcher};

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) generations: Vec<Pretended>,
    /// The build of the generation that gets the clients of the port.
    target: Option<u64>,
    /// Builds that have begun and are not done.
    pub(super) building: VecDeque<u64>,
    /// Preparations that have begun and are not done.
    pub(super) preparing: VecDeque<u64>,
    pub(super) events: VecDeque<Event>,
    pub(super) paused: bool,
    /// No generation is built any more, and the port is closed.
    pub(super) closed: bool,
    /// Whether the next generation can be built beside the one that it replaces.
    overlaps: bool,
}

/// A generation that only pretends.
#[derive(Debug)]
pub(super) struct Pretended {
    pub(super) build: u64,
    /// It has been the target.
    served: bool,
    /// It has ended by itself before it served, perhaps unnoticed.
    failed: bool,
    /// Ignores all requests until it is given up.
    pub(super) hangs: bool,
    /// Its check was not answered.
    pub(super) unproved: bool,
    pub(super) clients: usize,
    /// By when its clients must be gone. None: it has not been asked to let them go.
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

    pub(super) fn is_target(&self, build: u64) -> bool {
        self.target == Some(build)
    }

    /// Whether each generation that has served drains, except for the target.
    pub(super) fn has_one_target(&self) -> bool {
        let serves = |generation: &&Pretended| generation.served && generation.deadline.is_none();
        self.generations.iter().filter(serves).map(|generation| generation.build).eq(self.target)
    }

    /// The generation that gets the clients.
    pub(super) fn target(&mut self) -> Option<&mut Pretended> {
        let target = self.target?;
        Some(self.generation(target))
    }

    /// The target ends by itself, and drains.
    pub(super) fn fail_target(&mut self, now: Instant) -> Option<u64> {
        let target = self.target.take()?;
        self.generation(target).deadline = Some(now + Duration::from_millis(500));
        Some(target)
    }

    /// The generation that should replace the target ends by itself, and drains.
    pub(super) fn fail_next(&mut self, now: Instant) -> Option<u64> {
        let is_next =
            |generation: &&mut Pretended| !generation.served && generation.deadline.is_none() && !generation.dropped;
        let next = self.generations.iter_mut().find(is_next)?;
        next.deadline = Some(now + Duration::from_millis(500));
        next.failed = true;
        Some(next.build)
    }

    fn drain(&mut self, build: u64, deadline: Instant) {
        self.generation(build).deadline = Some(deadline);
        self.target.take_if(|target| *target == build);
    }

    /// A generation reports that it has ended by itself.
    pub(super) fn exits(&mut self, build: u64, reason: &str) {
        self.events.push_back(Event::Exited { build, failure: Failure::because(reason.into(), Vec::new()) });
    }

    /// Generations that are done report it.
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
pub(super) struct PretendedBuilder(Shared);

impl PretendedBuilder {
    pub(super) fn new(world: &Shared, overlaps: bool) -> Box<PretendedBuilder> {
        lock(world).overlaps = overlaps;
        Box::new(PretendedBuilder(world.clone()))
    }
}

impl Builder for PretendedBuilder {
    fn build(&mut self, build: u64) {
        let mut world = lock(&self.0);
        assert!(world.overlaps || world.target.is_none(), "the last one is in the way: {world:?}");
        assert!(!world.closed, "build {build} begins while the supervisor ends");
        world.building.push_back(build);
    }

    fn prepare(&mut self, build: u64) {
        let mut world = lock(&self.0);
        assert!(!world.overlaps && !world.closed, "nothing would be stopped for build {build}: {world:?}");
        world.preparing.push_back(build);
    }

    fn overlaps(&self) -> bool {
        lock(&self.0).overlaps
    }

    fn pause(&self, pause: u64) -> Result<usize, String> {
        let mut world = lock(&self.0);
        assert!(!std::mem::replace(&mut world.paused, true), "it is paused twice");
        world.events.push_back(Event::Quiet { pause });
        Ok(1)
    }

    fn resume(&self) {
        assert!(std::mem::take(&mut lock(&self.0).paused), "it is not paused");
    }

    fn close(&mut self, _: Deadline) {
        let mut world = lock(&self.0);
        assert!(world.target.is_none(), "nobody notifies the clients in the accept queue: {world:?}");
        assert!(!world.paused, "what waits is never served: {world:?}");
        world.closed = true;
    }
}

/// Master control's handle on a generation that only pretends.
#[derive(Debug)]
pub(super) struct PretendedHandle {
    world: Shared,
    build: u64,
}

impl PretendedHandle {
    pub(super) fn new(world: &Shared, build: u64) -> Box<PretendedHandle> {
        let generation = Pretended {
            build,
            served: false,
            failed: false,
            hangs: false,
            unproved: false,
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
    fn serve(&self) {
        let mut world = lock(&self.world);
        assert!(!world.closed, "it serves a port that is closed");
        let generation = world.generation(self.build);
        if generation.failed {
            generation.served = true;
            world.target = None;
            return;
        }
        assert!(!generation.served && generation.deadline.is_none(), "it has served before: {generation:?}");
        generation.served = true;
        world.target = Some(self.build);
    }

    fn retire_by(&self, deadline: Deadline, _spread: Duration) {
        let mut world = lock(&self.world);
        assert!(!world.overlaps || world.target != Some(self.build), "none takes its place: {world:?}");
        world.drain(self.build, deadline.at());
    }

    fn stop_by(&self, deadline: Deadline, _spread: Duration) {
        lock(&self.world).drain(self.build, deadline.at());
    }

    fn move_deadline(&self, deadline: Deadline) {
        let mut world = lock(&self.world);
        let generation = world.generation(self.build);
        assert!(generation.deadline.is_some(), "it does not drain: {generation:?}");
        generation.deadline = Some(deadline.at());
    }

    fn clients(&self) -> Option<&dyn Clients> {
        Some(self)
    }

    fn unproved(&self) -> Option<Failure> {
        let reason = "its check has had no answer".into();
        lock(&self.world).generation(self.build).unproved.then_some(Failure::because(reason, Vec::new()))
    }

    fn check(&self, _limit: Duration) {
        let mut world = lock(&self.world);
        let accepting = !world.generation(self.build).hangs;
        world.events.push_back(Event::Checked { build: self.build, accepting });
    }

    fn available(&self, done: Availability) {
        done(Ok(()));
    }

    fn give_up(&mut self, why: &str) {
        let mut world = lock(&self.world);
        let generation = world.generation(self.build);
        generation.hangs = false;
        // The real one has its own grace period, which the test's clock does not know.
        generation.deadline.get_or_insert_with(Instant::now);
        world.target.take_if(|target| *target == self.build);
        world.exits(self.build, why);
    }

    fn signal(&self, _signal: i32) -> bool {
        true
    }

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
        if std::thread::panicking() {
            return;
        }
        let mut world = lock(&self.world);
        assert!(world.target != Some(self.build), "it serves, and is dropped");
        world.generation(self.build).dropped = true;
    }
}
