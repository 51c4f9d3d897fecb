//! A list that only grows, whose clone costs two reference counts and whose growth after a clone copies one chunk.

use std::sync::Arc;

const CHUNK: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) struct Chunks<T> {
    full: Arc<Vec<Arc<Vec<T>>>>,
    tail: Arc<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { full: Arc::default(), tail: Arc::default() }
    }
}

impl<T: Clone> Chunks<T> {
    pub(crate) fn push(&mut self, item: T) {
        let tail = Arc::make_mut(&mut self.tail);
        tail.push(item);
        if tail.len() == CHUNK {
            Arc::make_mut(&mut self.full).push(std::mem::take(&mut self.tail));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(self.tail.iter())
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    pub(crate) fn len(&self) -> usize {
        self.full.len() * CHUNK + self.tail.len()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.tail.last().or_else(|| self.full.last()?.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_stays_as_it_was() {
        let mut list = Chunks::default();
        (0..CHUNK + 3).for_each(|n| list.push(n));
        let frozen = list.clone();
        list.push(9);
        assert_eq!(frozen.iter().count(), CHUNK + 3);
        assert_eq!(list.iter().count(), CHUNK + 4);
        assert!(frozen.iter().copied().eq(0..CHUNK + 3));
        assert_eq!((frozen.last(), list.last()), (Some(&(CHUNK + 2)), Some(&9)));
    }
}
