#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shmesh_fuzz::schema_walk::run(input));
