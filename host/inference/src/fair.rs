//! A queue that serves its owners in turn, by weight: one who floods it does not keep the others out.
//!
//! As in start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) each owner has a virtual time
//! that moves on by cost over weight, and who is least far is served next. An owner who comes back
//! starts at the queue's own time: there is no credit for having asked nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::num::NonZeroU32;

/// Of the virtual time, for one unit of cost at a weight of 1.
const UNIT: u64 = 1 << 20;

#[derive(Debug)]
pub struct FairQueue<K, T> {
    owners: HashMap<K, Owner<T>>,
    waiting: usize,
    /// The virtual time of who was served last.
    now: u64,
}

/// Is kept until nobody waits any more.
#[derive(Debug)]
struct Owner<T> {
    time: u64,
    weight: NonZeroU32,
    items: VecDeque<Item<T>>,
}

#[derive(Debug)]
struct Item<T> {
    cost: u64,
    value: T,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            waiting: 0,
            now: 0,
        }
    }
}

impl<K: Eq + Hash + Copy, T> FairQueue<K, T> {
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub fn len(&self) -> usize {
        self.waiting
    }

    /// How many items of one owner wait.
    pub fn len_of(&self, owner: K) -> usize {
        self.owners.get(&owner).map_or(0, |owner| owner.items.len())
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let items = self.owners.values().flat_map(|owner| &owner.items);
        items.map(|item| &item.value)
    }

    pub fn push(&mut self, owner: K, weight: NonZeroU32, cost: u64, value: T) {
        self.waiting += 1;
        let owner = self.owner(owner, weight);
        owner.items.push_back(Item { cost, value });
    }

    /// For what a served item turned out to cost beyond what was said of it.
    pub fn charge(&mut self, owner: K, weight: NonZeroU32, cost: u64) {
        self.owner(owner, weight).advance(cost);
    }

    /// The item that is served next.
    pub fn front(&self) -> Option<&T> {
        let owner = self.owners.get(&self.next()?)?;
        owner.items.front().map(|item| &item.value)
    }

    pub fn pop(&mut self) -> Option<T> {
        let next = self.next()?;
        let owner = self.owners.get_mut(&next)?;
        let item = owner.items.pop_front()?;
        self.now = self.now.max(owner.time);
        owner.advance(item.cost);
        self.waiting -= 1;
        self.forget();
        Some(item.value)
    }

    /// Serves every item that `takes` says, asking for those first whose owners are least far.
    pub fn pop_if(&mut self, mut takes: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        let mut owners: Vec<&mut Owner<T>> = self.owners.values_mut().collect();
        owners.sort_by_key(|owner| owner.time);
        for owner in owners {
            let served = owner.remove_if(&mut takes);
            owner.advance(served.iter().map(|item| item.cost).sum());
            taken.extend(served.into_iter().map(|item| item.value));
        }
        self.waiting -= taken.len();
        self.forget();
        taken
    }

    /// Takes items out that nobody wants any more.
    pub fn remove_if(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for owner in self.owners.values_mut() {
            let items = owner.remove_if(&mut unwanted);
            removed.extend(items.into_iter().map(|item| item.value));
        }
        self.waiting -= removed.len();
        self.forget();
        removed
    }

    fn owner(&mut self, owner: K, weight: NonZeroU32) -> &mut Owner<T> {
        let now = self.now;
        let owner = self.owners.entry(owner).or_insert_with(|| Owner {
            time: now,
            weight,
            items: VecDeque::new(),
        });
        owner.weight = weight;
        if owner.items.is_empty() {
            owner.time = owner.time.max(now);
        }
        owner
    }

    fn next(&self) -> Option<K> {
        let waiting = self.owners.iter().filter(|(_, o)| !o.items.is_empty());
        let next = waiting.min_by_key(|(_, owner)| owner.time);
        next.map(|(key, _)| *key)
    }

    /// Where nobody waits, nobody is ahead of others either.
    fn forget(&mut self) {
        if self.waiting == 0 {
            let latest = self.owners.drain().map(|(_, owner)| owner.time).max();
            self.now = self.now.max(latest.unwrap_or_default());
        }
    }
}

impl<T> Owner<T> {
    fn advance(&mut self, cost: u64) {
        let step = cost.saturating_mul(UNIT) / u64::from(self.weight.get());
        self.time = self.time.saturating_add(step);
    }

    fn remove_if(&mut self, mut which: impl FnMut(&T) -> bool) -> Vec<Item<T>> {
        let mut removed = Vec::new();
        let mut at = 0;
        while let Some(item) = self.items.get(at) {
            if which(&item.value) {
                removed.extend(self.items.remove(at));
            } else {
                at += 1;
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight(weight: u32) -> NonZeroU32 {
        NonZeroU32::new(weight).unwrap()
    }

    fn drain<K: Eq + Hash + Copy, T>(queue: &mut FairQueue<K, T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn one_owner_is_served_in_order() {
        let mut queue = FairQueue::default();
        for item in 0..100 {
            queue.push('a', weight(3), 7, item);
        }
        assert_eq!((queue.len_of('a'), queue.len()), (100, 100));
        assert_eq!(queue.front(), Some(&0));
        let odd = queue.pop_if(|item| item % 2 == 1);
        assert_eq!(odd, (1..100).step_by(2).collect::<Vec<_>>());
        assert_eq!(queue.remove_if(|item| *item < 50).len(), 25);
        assert_eq!(drain(&mut queue), (50..100).step_by(2).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn who_comes_to_a_flooded_queue_does_not_wait_for_the_flood() {
        let mut queue = FairQueue::default();
        for _ in 0..1000 {
            queue.push('a', weight(1), 1, 'a');
        }
        for _ in 0..10 {
            queue.pop();
        }
        queue.push('b', weight(1), 1, 'b');
        queue.push('b', weight(1), 1, 'b');
        let order: String = drain(&mut queue).into_iter().take(6).collect();
        assert_eq!(order.matches('b').count(), 2, "{order}");
    }

    #[test]
    fn time_in_which_an_owner_asked_nothing_is_no_credit() {
        let mut queue = FairQueue::default();
        queue.push('b', weight(1), 1, 'b');
        queue.pop();
        for _ in 0..1000 {
            queue.push('a', weight(1), 1, 'a');
            queue.pop();
        }
        for owner in ['b', 'a'].repeat(20) {
            queue.push(owner, weight(1), 1, owner);
        }
        let order: String = drain(&mut queue).into_iter().take(10).collect();
        let of_a = order.matches('a').count();
        assert!((4..=6).contains(&of_a), "{order}");
    }

    #[test]
    fn what_turns_out_to_cost_more_is_charged() {
        let mut queue = FairQueue::default();
        for _ in 0..20 {
            queue.push('a', weight(1), 0, 'a');
            queue.push('b', weight(1), 0, 'b');
        }
        let mut order = String::new();
        for _ in 0..12 {
            let served = queue.pop().unwrap();
            queue.charge(served, weight(1), if served == 'a' { 30 } else { 10 });
            order.push(served);
        }
        assert_eq!(order.matches('a').count(), 3, "{order}");
    }

    #[test]
    fn owners_that_have_gone_are_forgotten() {
        let mut queue = FairQueue::default();
        for owner in 0..1000 {
            queue.push(owner, weight(1), 1, ());
            queue.pop();
        }
        assert!(queue.owners.is_empty());
    }

    proptest! {
        /// While both have items, each gets its share, within one item.
        #[test]
        fn shares_are_by_weight(
            one in 1_u32..10,
            other in 1_u32..10,
            cost in 1_u64..50,
            taken in 10_usize..200,
        ) {
            let mut queue = FairQueue::default();
            for _ in 0..200 {
                queue.push('a', weight(one), cost, 'a');
                queue.push('b', weight(other), cost, 'b');
            }
            let of_one = (0..taken).filter(|_| queue.pop() == Some('a')).count() as f64;
            let share = taken as f64 * f64::from(one) / f64::from(one + other);
            prop_assert!((of_one - share).abs() <= 2.0, "{of_one} of {share}");
        }
    }
}
