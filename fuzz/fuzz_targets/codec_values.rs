#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| shmesh_fuzz::codec_values::run(input));
