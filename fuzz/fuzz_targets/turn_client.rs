#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    postern_proto::turn::client::turn_client(std::time::Instant::now(), data);
});
