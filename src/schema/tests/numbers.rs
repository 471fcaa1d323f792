//! Numbers of all kinds: those that JSON has no words for, too.

use super::*;

fn read<T: Archivable>(value: &T) -> String
where
    Archived<T>: Portable,
{
    tools::<T>().0.json_text(&archive_of(value)).unwrap()
}

/// What is read is written as the same bytes again.
fn check_again<T: Archivable>(value: &T, expected: &str)
where
    Archived<T>: Portable,
{
    let archive = archive_of(value);
    let (reader, mut writer) = tools::<T>();
    let json = reader.json_text(&archive).unwrap();
    assert_eq!(json, expected);
    assert_eq!(writer.write(&json).unwrap(), &archive[..], "{json}");
}

#[test]
fn numbers_that_are_not_finite_are_texts_and_come_back() {
    check_again(
        &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0],
        r#"["NaN","Infinity","-Infinity",-0.0]"#,
    );
    check_again(
        &vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.5],
        r#"["NaN","Infinity","-Infinity",1.5]"#,
    );
    let (_, mut writer) = tools::<f64>();
    for not_one in [r#""nan""#, r#""1.5""#, "null"] {
        let error = writer.write(not_one).unwrap_err().to_string();
        assert!(error.contains("expected f64"), "{error}");
    }
}

#[test]
fn integers_beyond_64_bits_are_texts_and_come_back() {
    let [most, least] = [i128::from(u64::MAX), i128::from(i64::MIN)];
    for (number, expected) in [
        (0, "0".to_owned()),
        (most, most.to_string()),
        (least, least.to_string()),
        (most + 1, format!("\"{}\"", most + 1)),
        (least - 1, format!("\"{}\"", least - 1)),
        (i128::MAX, format!("\"{}\"", i128::MAX)),
        (i128::MIN, format!("\"{}\"", i128::MIN)),
    ] {
        check_again(&number, &expected);
    }
    check_again(&u128::from(u64::MAX), &u64::MAX.to_string());
    check_again(&u128::MAX, &format!("\"{}\"", u128::MAX));
    let table = HashMap::from([(u128::MAX, i128::MIN)]);
    let expected = format!("{{\"{}\":\"{}\"}}", u128::MAX, i128::MIN);
    check_again(&table, &expected);
    check_again(
        &BTreeMap::from([(-1_i128, 1_u128), (i128::MAX, 2)]),
        &format!("{{\"-1\":1,\"{}\":2}}", i128::MAX),
    );
    // In digits the first and the last one beyond 64 bits would have been rounded.
    let (_, mut writer) = tools::<u128>();
    let error = writer.write("18446744073709551616").unwrap_err();
    assert!(error.to_string().contains("expected u128"), "{error}");
}

#[test]
fn keys_of_isize_are_where_rkyv_puts_them() {
    for key in [
        -1_isize,
        -5,
        -70_000,
        0,
        3,
        i32::MIN as isize,
        i32::MAX as isize,
    ] {
        check_again(&HashMap::from([(key, 1_u8)]), &format!("{{\"{key}\":1}}"));
    }
    let schemas = [Schema::of::<isize>(), Schema::of::<i32>()];
    let [pointer, fixed] = schemas.map(|schema| schema.unwrap());
    assert_ne!(pointer.hash(), fixed.hash());
    assert_eq!(pointer.to_string(), "type Message = isize;\n");
}

#[test]
fn numbers_of_few_digits_are_those_of_serde() {
    let mut numbers = vec![
        0.0,
        -0.0,
        1.0,
        999.999,
        1e12,
        999_999_999_999.999,
        1e15,
        1e16,
    ];
    numbers.extend([
        0.001,
        0.000_1,
        0.5,
        0.05,
        0.005,
        0.000_5,
        0.999_5,
        12.25,
        0.1 + 0.2,
    ]);
    numbers.extend([
        9_007_199_254_740.993,
        4_503_599_627_370.497,
        f64::MAX,
        f64::MIN_POSITIVE,
    ]);
    numbers.extend((0..3_000).map(|n| f64::from(n) / 1000.0));
    for number in numbers {
        for near in [number, number.next_up(), number.next_down(), -number] {
            check_as_serde(near);
            #[expect(clippy::cast_possible_truncation, reason = "as meant")]
            let near = near as f32;
            check_as_serde(near);
            check_as_serde(near.next_up());
        }
    }
}

fn check_as_serde<T: Archivable + serde::Serialize + Into<f64> + Copy>(number: T)
where
    Archived<T>: Portable,
{
    if number.into().is_finite() {
        assert_eq!(read(&number), serde_json::to_string(&number).unwrap());
    }
}

proptest! {
    #[test]
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as meant")]
    fn any_number_is_that_of_serde(bits: u64, thousandths in -2_000_000_000_000_000_i64..) {
        let decimal = (thousandths % 2_000_000_000_000_000) as f64 / 1000.0;
        for number in [f64::from_bits(bits), decimal] {
            check_as_serde(number);
            check_as_serde(number as f32);
        }
    }
}
