//! What an idle allocation costs.

use super::super::allocation::Allocation;
use super::super::*;
use super::world::*;

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn an_allocation_is_half_a_kilobyte() {
    let size = size_of::<Allocation>();
    assert!(size <= 640, "{size}");
    assert!(size_of::<FiveTuple>() <= 68);
}

/// Other tests in this process allocate too: alone it shows about 1 kB.
#[test]
#[ignore = "measures the whole process: run it alone"]
#[cfg(target_os = "linux")]
fn ten_thousand_idle_allocations_cost_less_than_two_kilobytes_each() {
    const COUNT: usize = 10_000;
    let mut world = World::with(Config {
        unproven_allowance: None,
        ..config()
    });
    let from = |n: usize| {
        let address = format!("203.0.{}.{}:{}", 113 + n / 5000, n % 250, 1 + n);
        client(Transport::Udp, &address, "alice")
    };
    for n in 0..100 {
        world.allocate(&from(n));
    }
    world.events.clear();
    let before = resident();
    for n in 100..COUNT + 100 {
        world.allocate(&from(n));
        world.events.clear();
    }
    let each = resident().saturating_sub(before) / COUNT;
    println!("{each} bytes for each allocation");
    assert!(each < 2000, "{each}");
}
