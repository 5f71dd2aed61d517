//! What is decided: keys of 31 bytes and the order in which they are asked for, drawn once for all contestants.

/// Which keys a scenario asks for.
pub(crate) struct Workload {
    /// Keys of 31 bytes.
    pub(crate) keys: Vec<String>,
    /// Positions of keys, Zipf-distributed, in the order of the calls.
    order: Vec<u32>,
    /// The share of calls that go to the most wanted key.
    pub(crate) hottest_share: f64,
}

const EXPONENT: f64 = 0.99;

impl Workload {
    /// `count` keys and `draws` calls on them, with Zipf exponent 0.99; the same for every run.
    pub(crate) fn new(count: usize, draws: usize) -> Self {
        let keys =
            (0..count).map(|number| format!("tenant-{:06}/user-{number:012}", number % 1_000)).collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut total = 0.0;
        let cumulated: Vec<f64> = (1..=count)
            .map(|rank| {
                total += (rank as f64).powf(-EXPONENT);
                total
            })
            .collect();
        // Wanted keys lie anywhere in memory, not side by side.
        let mut places: Vec<u32> = (0..count as u32).collect();
        for place in (1..places.len()).rev() {
            places.swap(place, random.below(place as u64 + 1) as usize);
        }
        let order = (0..draws)
            .map(|_| {
                let rank = cumulated.partition_point(|&sum| sum < random.unit() * total);
                places.get(rank).copied().unwrap_or_default()
            })
            .collect();
        Self { keys, order, hottest_share: 1.0 / total }
    }

    /// The calls of one thread in one round: another stretch of the order each time, the same for all contestants.
    pub(crate) fn calls(&self, round: usize, thread: usize, threads: usize, calls: usize) -> &[u32] {
        let stretches = (self.order.len() / calls).max(1);
        let start = (round * threads + thread) % stretches * calls;
        self.order.get(start..start + calls).unwrap_or(&self.order)
    }
}

/// SplitMix64: enough for drawing keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
