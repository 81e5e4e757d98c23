//! The connections of one loop, by numbers that can be given to epoll.

/// The name of one connection. Its place may be reused by another connection; its serial number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    place: u32,
    serial: u32,
}

/// The largest serial number that fits beside a flag in a name that epoll gives back.
const SERIALS: u32 = u32::MAX >> 1;

impl Key {
    /// The key and a flag, in one number. The highest numbers are never used.
    pub(super) fn with(self, flag: bool) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.serial) << 1 | u64::from(flag)
    }

    pub(super) fn from(number: u64) -> (Key, bool) {
        (Key { place: (number >> 32) as u32, serial: number as u32 >> 1 }, number & 1 == 1)
    }
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// The last one that was used. When all numbers were used it begins again, long after the events of the first one.
    serial: u32,
}

#[derive(Debug)]
struct Slot<T> {
    serial: u32,
    /// None: the slot is free, or its content is being worked on.
    content: Option<Box<T>>,
}

/// How many places are kept when all connections have ended. The memory for many at once is freed.
const KEPT: usize = 1024;

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), serial: 0 }
    }

    /// Reserves a place, and returns its name.
    pub(super) fn reserve(&mut self) -> Key {
        self.serial = (self.serial + 1) & SERIALS;
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { serial: 0, content: None });
            (self.slots.len() - 1) as u32 // There are fewer descriptors than that.
        });
        self.slots[place as usize].serial = self.serial;
        Key { place, serial: self.serial }
    }

    /// Takes the content out; the caller then puts it back or releases its place.
    pub(super) fn take(&mut self, key: Key) -> Option<Box<T>> {
        let slot = self.slots.get_mut(key.place as usize)?;
        if slot.serial == key.serial { slot.content.take() } else { None }
    }

    pub(super) fn put(&mut self, key: Key, content: Box<T>) {
        self.slots[key.place as usize].content = Some(content);
    }

    /// The place may be reused.
    pub(super) fn release(&mut self, key: Key) {
        self.free.push(key.place);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT {
            self.slots = (0..KEPT).map(|_| Slot { serial: 0, content: None }).collect();
            self.free = (0..KEPT as u32).rev().collect();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.content.as_deref())
    }

    /// The names of all occupied places.
    pub(super) fn keys(&self) -> Vec<Key> {
        let occupied = self.slots.iter().enumerate().filter(|(_, slot)| slot.content.is_some());
        occupied.map(|(place, slot)| Key { place: place as u32, serial: slot.serial }).collect()
    }
}
