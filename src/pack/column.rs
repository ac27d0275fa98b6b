//! Columns of many values in chunks: a table of ten million entries never doubles while it grows.

/// Values in a chunk.
const CHUNK: usize = 1 << 16;

/// A column that grows without being copied. Its chunks fit where those of another one have been.
pub(crate) struct Column<T>(Vec<Vec<T>>);

impl<T: Copy> Column<T> {
    pub(crate) fn new() -> Self {
        Column(Vec::new())
    }

    pub(crate) fn push(&mut self, value: T) {
        if self.0.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // A small pack takes a small chunk, which then grows as vectors do.
            let capacity = if self.0.is_empty() { 64 } else { CHUNK };
            self.0.push(Vec::with_capacity(capacity));
        }
        self.0.last_mut().expect("pushed above if there was none").push(value);
    }

    pub(crate) fn get(&self, index: u32) -> T {
        self.0[index as usize / CHUNK][index as usize % CHUNK]
    }

    pub(crate) fn set(&mut self, index: u32, value: T) {
        self.0[index as usize / CHUNK][index as usize % CHUNK] = value;
    }

    pub(crate) fn len(&self) -> usize {
        self.0.split_last().map_or(0, |(last, full)| full.len() * CHUNK + last.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        self.0.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_there_across_chunks() {
        let mut column = Column::new();
        assert_eq!((column.len(), column.iter().count()), (0, 0));
        let count = 2 * CHUNK + 5;
        (0..count).for_each(|number| column.push(number as u32));
        column.set(CHUNK as u32, 7);
        assert_eq!((column.get(CHUNK as u32 - 1), column.get(CHUNK as u32)), (CHUNK as u32 - 1, 7));
        assert_eq!((column.len(), column.iter().last()), (count, Some(count as u32 - 1)));
        assert!(column.iter().take(CHUNK).eq(0..CHUNK as u32));
    }
}
