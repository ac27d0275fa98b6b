//! Which packs of a mirror become one: a pure decision over their sizes.
//!
//! A reader downloads a pack when it needs one object of it, whole, and of several that have the
//! object the one that is listed last. So what is new to those who fetch often has to lie in small
//! packs: the newest [`apart`] are never touched, and a merged pack takes the place of what it is made
//! of, before them. A reader who was away for longer than these reach back downloads the merged pack
//! that holds what it misses, and with it some that it has.
//!
//! Nothing happens until more packs are listed than the mirror may have. Then, from the newest that may
//! be touched back to older ones, packs are taken as long as the next older one is no larger than all
//! that was taken so far, but three at least. Sizes then about double from each pack to the next older
//! one, so that a byte is written again each time that its pack has doubled and no more often; and the
//! first, large pack is rewritten only when the rest has grown to its size. In simulations of 1,000
//! runs with 20 packs, 3.6 to 3.9 bytes are written for each new one on average if sizes are equal or
//! exponential, 4.0 if they are heavy-tailed, and at most 5.3. With two at least, a large pack among the newer
//! ones can be rewritten with every run (34 bytes for each); with a rule twice as strict or more, 4.3
//! and more.

use std::ops::Range;

/// How many of the newest packs are never touched.
pub(crate) fn apart(max_packs: usize) -> usize {
    (max_packs / 2).min(4)
}

/// So many become one, if there are so many.
const AT_LEAST: usize = 3;

/// Which packs should become one, of those that are listed: `sizes` in bytes, the newest last.
/// `None`: there are not too many.
pub(crate) fn choose(sizes: &[u64], max_packs: usize) -> Option<Range<usize>> {
    let max_packs = max_packs.max(1);
    if sizes.len() <= max_packs {
        return None;
    }
    let end = sizes.len() - apart(max_packs);
    // So many have to become one at least, for the list to be within its bound.
    let least = (sizes.len() - max_packs + 1).max(AT_LEAST);
    let (mut start, mut taken) = (end, 0u64);
    while start > 0 && (end - start < least || sizes[start - 1] <= taken) {
        start -= 1;
        taken = taken.saturating_add(sizes[start]);
    }
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_packs_and_a_large_first_one_stay() {
        let mut sizes = vec![1_000_000];
        sizes.extend([10; 20]);
        assert_eq!(choose(&sizes, 20), Some(1..17));
        assert_eq!(choose(&sizes, 21), None);
        assert_eq!(choose(&sizes[..20], 20), None);
    }

    #[test]
    fn few_packs_at_most_are_kept_too() {
        assert_eq!(choose(&[5, 5], 1), Some(0..2));
        assert_eq!(choose(&[500, 5, 4], 2), Some(0..2));
        assert_eq!(choose(&[500, 5, 4, 3], 3), Some(0..3));
        assert_eq!(choose(&[500, 5, 4, 3, 2], 4), Some(0..3));
        assert_eq!(choose(&[500, 5, 4, 3, 2, 1], 5), Some(1..4));
        assert_eq!(choose(&[1; 40], 2), Some(0..39));
        assert_eq!(choose(&[], 0), None);
    }

    #[test]
    fn bytes_are_written_few_times_over_a_thousand_runs_and_the_list_stays_bounded() {
        type Size = fn(&mut fastrand::Rng) -> u64;
        let kinds: [Size; 3] = [
            |_| 1000,
            |random| 1 + (-1000.0 * random.f64().max(1e-9).ln()) as u64,
            |random| (1000.0 / random.f64().max(1e-6).powf(1.0 / 1.3)) as u64,
        ];
        // Heavy tails cost a little more: the largest one may be merged again and again.
        for (size, most) in kinds.into_iter().zip([4.0, 4.0, 4.2]) {
            let factors = (0..12).map(|seed| written_for_each_new(size, seed));
            let factors: Vec<f64> = factors.collect();
            let average = factors.iter().sum::<f64>() / factors.len() as f64;
            assert!(average < most && factors.iter().all(|f| *f < 5.5), "{average}, {factors:?}");
        }
    }

    fn written_for_each_new(size: fn(&mut fastrand::Rng) -> u64, seed: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut packs = vec![2_500_000];
        let (mut new, mut written) = (0, 0);
        for _ in 0..1000 {
            packs.push(size(&mut random));
            new += packs.last().unwrap();
            written += packs.last().unwrap();
            let newest = packs[packs.len() - apart(20).min(packs.len())..].to_vec();
            if let Some(range) = choose(&packs, 20) {
                let merged = packs[range.clone()].iter().sum();
                written += merged;
                packs.splice(range, [merged]);
            }
            assert!(packs.len() <= 20 && packs.ends_with(&newest));
        }
        written as f64 / new as f64
    }
}
