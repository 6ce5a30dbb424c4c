//! The caches of this machine, which decide how products are cut into blocks.

use std::sync::OnceLock;

/// Sizes of the data caches of a core, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// The first cache.
    pub first: usize,
    /// The second cache, of one core's own or shared by a few.
    pub second: usize,
}

/// The caches that are assumed where the machine does not tell: the smallest of the last ten years' processors.
const SMALL: Caches = Caches {
    first: 32 << 10,
    second: 256 << 10,
};

/// The caches of this machine, by the processor's own tables or the system's.
pub fn caches() -> Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    *CACHES.get_or_init(|| {
        let size = |level| {
            let size = of_processor(level).or_else(|| of_system(level));
            // Nobody has built such a cache: a virtual machine may say anything.
            size.filter(|size| (4 << 10..=64 << 20).contains(size))
        };
        Caches {
            first: size(1).unwrap_or(SMALL.first),
            second: size(2).unwrap_or(SMALL.second),
        }
    })
}

/// The size of the data cache of a level by CPUID: leaf 4 of Intel's processors, which AMD's have under
/// another number.
#[cfg(target_arch = "x86_64")]
fn of_processor(level: u32) -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    let (basic, extended) = (__cpuid(0).eax, __cpuid(0x8000_0000).eax);
    let leaves = [(4, basic), (0x8000_001d, extended)];
    let leaves = leaves.into_iter().filter(|(leaf, last)| leaf <= last);
    leaves.into_iter().find_map(|(leaf, _)| {
        let caches = (0..16).map(|index| __cpuid_count(leaf, index));
        let mut caches = caches.take_while(|cache| cache.eax & 0x1f != 0);
        // Types 1 and 3 hold data, or data and instructions.
        let cache = caches
            .find(|cache| matches!(cache.eax & 0x1f, 1 | 3) && cache.eax >> 5 & 7 == level)?;
        let field = |shift: u32, bits: u32| (cache.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        let (line, parts, ways) = (field(0, 12), field(12, 10), field(22, 10));
        Some(line * parts * ways * (cache.ecx as usize + 1))
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn of_processor(_level: u32) -> Option<usize> {
    None
}

/// The size of the data cache of a level by Linux's tables; nothing on other systems.
fn of_system(level: u32) -> Option<usize> {
    (0..8).find_map(|index| {
        let field = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
        };
        let holds_data = field("type")? != "Instruction";
        let own = holds_data && field("level")? == level.to_string();
        own.then(|| bytes(&field("size")?)).flatten()
    })
}

/// A size as Linux writes it: `32K`, `1M`.
fn bytes(size: &str) -> Option<usize> {
    let (number, unit) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 1 << 10),
        b'M' => (&size[..size.len() - 1], 1 << 20),
        _ => (size, 1),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("32K"), Some(32 << 10));
        assert_eq!(bytes("1M"), Some(1 << 20));
        assert_eq!(bytes("512"), Some(512));
        assert_eq!(bytes(""), None);
        assert_eq!(bytes("K"), None);
    }

    #[test]
    fn the_second_cache_is_not_smaller_than_the_first() {
        let caches = caches();
        assert!(caches.first <= caches.second, "{caches:?}");
    }

    /// Both tables speak of one machine, where both have an answer.
    #[test]
    fn the_processor_and_the_system_agree() {
        for level in [1, 2] {
            if let (Some(processor), Some(system)) = (of_processor(level), of_system(level)) {
                assert_eq!(processor, system, "level {level}");
            }
        }
    }
}
