//! The mask library: masks as expressions over the raw column of a row.
//!
//! INVARIANT: every mask is total (no value makes it fail), keeps the type, and NULL stays NULL. A mask that a type does
//! not support is refused when the relation is made, never when it runs. Plans hold key ids; keys stay in the ring.

use crate::Mask;
use datafusion_common::arrow::array::{
    Array, ArrayRef, AsArray, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use datafusion_common::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    expr::ScalarFunction, lit,
};
use hmac::{KeyInit, Mac, SimpleHmac};
use sha3::Sha3_256;
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// A ring of token keys. Keys stay inside; a plan knows their ids.
pub trait TokenKeys: Send + Sync {
    /// HMAC-SHA3-256 of `message` under the key with this id (see [`hmac_sha3_256`]); `None` where there is no such key.
    fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]>;
}

/// Whether this mask can be put on a column of this type.
pub fn supports(mask: &Mask, data_type: &DataType) -> bool {
    match mask {
        Mask::Null => true,
        Mask::Const(value) => value.data_type() == *data_type || value.cast_to(data_type).is_ok_and(|v| !v.is_null()),
        Mask::Token { .. } => is_text(data_type) || *data_type == DataType::Int64,
        Mask::First(n) | Mask::Last(n) => *n > 0 && is_text(data_type),
        Mask::Year | Mask::Month => matches!(data_type, DataType::Date32 | DataType::Timestamp(..)),
        Mask::Bucket(width) => *width > 0 && (data_type.is_integer() || is_float(data_type)),
    }
}

/// The mask over `raw`, a column of type `data_type`. Refuses what the type does not support and keys that are not there.
pub fn expression(mask: &Mask, raw: Expr, data_type: &DataType, keys: &Arc<dyn TokenKeys>) -> Result<Expr> {
    if !supports(mask, data_type) {
        return plan_err!("mask `{}` does not apply to type `{data_type}`", describe(mask));
    }
    let function = match mask {
        Mask::Null => return Ok(lit(ScalarValue::try_from(data_type)?)),
        Mask::Const(value) => return Ok(lit(value.cast_to(data_type)?)),
        Mask::Token { key, domain } => {
            if keys.mac(key, &[]).is_none() {
                return plan_err!("token key `{key}` is not available");
            }
            Function::Token { key: key.clone(), domain: domain.clone(), ring: Ring(Arc::clone(keys)) }
        }
        Mask::First(n) => Function::First(*n),
        Mask::Last(n) => Function::Last(*n),
        Mask::Year => Function::Year,
        Mask::Month => Function::Month,
        Mask::Bucket(width) => Function::Bucket(*width),
    };
    let udf = ScalarUDF::from(MaskFunction { function, signature: Signature::any(1, Volatility::Immutable) });
    Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), vec![raw])))
}

/// Whether a function is one of this library: total, and allowed below a barrier.
pub fn is_mask_function(udf: &ScalarUDF) -> bool {
    (udf.inner().as_ref() as &dyn std::any::Any).is::<MaskFunction>()
}

/// The mask as written in `CREATE MASK PARAMETERS`.
pub fn describe(mask: &Mask) -> String {
    match mask {
        Mask::Null => "null".into(),
        Mask::Const(value) => format!("const({value})"),
        Mask::Token { key, domain } => format!("hmac(key '{key}', domain '{domain}')"),
        Mask::First(n) => format!("first({n})"),
        Mask::Last(n) => format!("last({n})"),
        Mask::Year => "year".into(),
        Mask::Month => "month".into(),
        Mask::Bucket(w) => format!("bucket({w})"),
    }
}

/// HMAC-SHA3-256: what a key ring computes.
pub fn hmac_sha3_256(key: &[u8], message: &[u8]) -> [u8; 32] {
    // `Hmac<Sha3_256>` does not compile with hmac 0.13 and sha3 0.12 (`CoreProxy`), and a MAC takes keys of any length.
    let Ok(mut mac) = SimpleHmac::<Sha3_256>::new_from_slice(key) else { return [0; 32] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// What a token authenticates: `custody/token/v1`, domain and value, each after its length as eight big-endian bytes.
pub fn token_message(domain: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + value.len());
    for part in [b"custody/token/v1".as_slice(), domain.as_bytes(), value] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// A token as text: the first 130 bits of the MAC in 26 characters of `a-z2-7`.
pub fn token_text(mac: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |i: usize| usize::from(mac[i / 8] >> (7 - i % 8) & 1);
    (0..26).map(|c| ALPHABET[(0..5).fold(0, |n, b| n << 1 | bit(c * 5 + b))] as char).collect()
}

/// A token as a number: the first 63 bits of the MAC.
pub fn token_number(mac: &[u8; 32]) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&mac[..8]);
    (u64::from_be_bytes(first) >> 1) as i64
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_float(t: &DataType) -> bool {
    matches!(t, DataType::Float32 | DataType::Float64)
}

/// A ring of keys. Plans compare by key id, and never print or hash a key.
#[derive(Clone)]
struct Ring(Arc<dyn TokenKeys>);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring(..)")
    }
}

impl PartialEq for Ring {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ring {}

impl Hash for Ring {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Function {
    Token { key: String, domain: String, ring: Ring },
    First(u32),
    Last(u32),
    Year,
    Month,
    Bucket(u64),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MaskFunction {
    function: Function,
    signature: Signature,
}

impl ScalarUDFImpl for MaskFunction {
    fn name(&self) -> &str {
        match &self.function {
            Function::Token { .. } => "mask_token",
            Function::First(_) => "mask_first",
            Function::Last(_) => "mask_last",
            Function::Year => "mask_year",
            Function::Month => "mask_month",
            Function::Bucket(_) => "mask_bucket",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let parameters = match &self.function {
            Function::Token { key, domain, .. } => format!("'{key}','{domain}',"),
            Function::First(n) | Function::Last(n) => format!("{n},"),
            Function::Bucket(w) => format!("{w},"),
            Function::Year | Function::Month => String::new(),
        };
        let args: Vec<_> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(format!("{}({parameters}{})", self.name(), args.join(",")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [one] => Ok(one.clone()),
            _ => plan_err!("`{}` takes one argument", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [raw] = arrays.as_slice() else { return exec_err!("`{}` takes one argument", self.name()) };
        self.function.apply(raw).map(ColumnarValue::Array)
    }
}

impl Function {
    fn apply(&self, raw: &ArrayRef) -> Result<ArrayRef> {
        match self {
            Self::Token { key, domain, ring } => {
                let mac = |value: &[u8]| match ring.0.mac(key, &token_message(domain, value)) {
                    Some(mac) => Ok(mac),
                    None => exec_err!("token key `{key}` is not available"),
                };
                if let DataType::Int64 = raw.data_type() {
                    let tokens = raw.as_primitive::<Int64Type>().iter();
                    let tokens: Result<PrimitiveArray<Int64Type>> = tokens
                        .map(|v| v.map(|v| mac(&v.to_be_bytes()).map(|m| token_number(&m))).transpose())
                        .collect();
                    return tokens.map(|a| Arc::new(a) as ArrayRef);
                }
                map_text(raw, |s| mac(s.as_bytes()).map(|m| token_text(&m)))
            }
            Self::First(n) => map_text(raw, |s| Ok(ends(s, *n as usize, true))),
            Self::Last(n) => map_text(raw, |s| Ok(ends(s, *n as usize, false))),
            Self::Year => map_time(raw, year_start),
            Self::Month => map_time(raw, month_start),
            Self::Bucket(width) => bucket(raw, *width),
        }
    }
}

/// The first or last `n` characters beside `***`; only `***` where fewer than `2n` characters are there.
fn ends(s: &str, n: usize, first: bool) -> String {
    let length = s.chars().count();
    if length < n.saturating_mul(2) {
        "***".into()
    } else if first {
        s.chars().take(n).chain("***".chars()).collect()
    } else {
        "***".chars().chain(s.chars().skip(length - n)).collect()
    }
}

fn map_text(raw: &ArrayRef, f: impl Fn(&str) -> Result<String>) -> Result<ArrayRef> {
    let f = |v: Option<&str>| v.map(&f).transpose();
    Ok(match raw.data_type() {
        DataType::Utf8 => Arc::new(raw.as_string::<i32>().iter().map(f).collect::<Result<StringArray>>()?),
        DataType::LargeUtf8 => Arc::new(raw.as_string::<i64>().iter().map(f).collect::<Result<LargeStringArray>>()?),
        DataType::Utf8View => Arc::new(raw.as_string_view().iter().map(f).collect::<Result<StringViewArray>>()?),
        other => return exec_err!("mask does not apply to type `{other}`"),
    })
}

/// Truncates dates and instants to the start of a UTC period, given as days since 1970.
fn map_time(raw: &ArrayRef, start: impl Fn(i64) -> i64) -> Result<ArrayRef> {
    const DAY: i64 = 86_400;
    fn instants<T: ArrowPrimitiveType<Native = i64>>(
        raw: &ArrayRef,
        per_day: i64,
        start: impl Fn(i64) -> i64,
    ) -> ArrayRef {
        let cut = |v: i64| start(v.div_euclid(per_day)).saturating_mul(per_day);
        let cut = raw.as_primitive::<T>().unary::<_, T>(cut);
        Arc::new(cut.with_data_type(raw.data_type().clone()))
    }
    Ok(match raw.data_type() {
        DataType::Date32 => {
            let cut = |v: i32| i32::try_from(start(i64::from(v))).unwrap_or(i32::MIN);
            Arc::new(raw.as_primitive::<Date32Type>().unary::<_, Date32Type>(cut))
        }
        DataType::Timestamp(TimeUnit::Second, _) => instants::<TimestampSecondType>(raw, DAY, start),
        DataType::Timestamp(TimeUnit::Millisecond, _) => instants::<TimestampMillisecondType>(raw, DAY * 1_000, start),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            instants::<TimestampMicrosecondType>(raw, DAY * 1_000_000, start)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            instants::<TimestampNanosecondType>(raw, DAY * 1_000_000_000, start)
        }
        other => return exec_err!("mask does not apply to type `{other}`"),
    })
}

/// Year and month of a day, proleptic Gregorian; every `i64` that a timestamp can hold is far from overflow here.
fn civil(day: i64) -> (i64, i64) {
    // Eras of 400 years that begin on 1 March: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month)
}

/// The day on which a month begins.
fn first_day(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn year_start(day: i64) -> i64 {
    // Seconds go up to 2^63: days to about 10^14, which the arithmetic above holds.
    first_day(civil(day).0, 1)
}

fn month_start(day: i64) -> i64 {
    let (year, month) = civil(day);
    first_day(year, month)
}

fn bucket(raw: &ArrayRef, width: u64) -> Result<ArrayRef> {
    macro_rules! int {
        ($t:ty) => {{
            type N = <$t as ArrowPrimitiveType>::Native;
            let w = i128::from(width);
            let lower = |v: N| N::try_from(i128::from(v).div_euclid(w) * w).unwrap_or(N::MIN);
            Arc::new(raw.as_primitive::<$t>().unary::<_, $t>(lower))
        }};
    }
    Ok(match raw.data_type() {
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => int!(UInt64Type),
        DataType::Float32 => {
            let w = width as f32;
            Arc::new(raw.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| (v / w).floor() * w))
        }
        DataType::Float64 => {
            let w = width as f64;
            Arc::new(raw.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| (v / w).floor() * w))
        }
        other => return exec_err!("mask does not apply to type `{other}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_common::arrow::array::{
        Date32Array, Float64Array, Int64Array, TimestampNanosecondArray, UInt8Array,
    };
    use datafusion_expr::col;

    struct Keys;
    impl TokenKeys for Keys {
        fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]> {
            (key == "k").then(|| hmac_sha3_256(b"k", message))
        }
    }

    fn keys() -> Arc<dyn TokenKeys> {
        Arc::new(Keys)
    }

    fn token() -> Function {
        Function::Token { key: "k".into(), domain: "d".into(), ring: Ring(keys()) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn hmac_is_the_published_one() {
        let mac = hex(&hmac_sha3_256(b"k", b"x"));
        assert!(mac.starts_with("e4c0154f") && mac.ends_with("1529ce67"), "{mac}");
    }

    #[test]
    fn tokens_keep_type_and_null() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("m-1"), None, Some("m-1"), Some("")]));
        let out = token().apply(&text).unwrap();
        let out = out.as_string::<i32>();
        assert_eq!(out.value(0).len(), 26);
        assert_eq!(out.value(0), token_text(&hmac_sha3_256(b"k", &token_message("d", b"m-1"))));
        assert_eq!((out.value(0), out.is_null(1), out.value(3).len()), (out.value(2), true, 26));
        let view: ArrayRef = Arc::new(StringViewArray::from(vec!["m-1"]));
        assert_eq!(token().apply(&view).unwrap().as_string_view().value(0), out.value(0));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]));
        let out = token().apply(&numbers).unwrap();
        let out = out.as_primitive::<Int64Type>();
        assert!(out.value(0) >= 0 && out.is_null(1) && out.value(2) >= 0 && out.value(0) != out.value(2));
    }

    #[test]
    fn length_prefixes_keep_parts_apart() {
        assert_ne!(token_message("ab", b"c"), token_message("a", b"bc"));
    }

    #[test]
    fn prefixes_count_characters() {
        for (s, n, first, want) in [
            ("abcdef", 3, true, "abc***"),
            ("abcde", 3, true, "***"),
            ("abcdef", 3, false, "***def"),
            ("äöüß", 2, true, "äö***"),
            ("äöüß", 2, false, "***üß"),
            ("", 1, true, "***"),
            ("x", usize::MAX, true, "***"),
        ] {
            assert_eq!(ends(s, n, first), want, "{s} {n}");
        }
    }

    #[test]
    fn periods_start_where_the_calendar_says() {
        // 1957-08-17, 1970-01-01, 2000-02-29, 1969-12-31
        let days: ArrayRef = Arc::new(Date32Array::from(vec![-4520, 0, 11016, -1, i32::MIN, i32::MAX]));
        let years = Function::Year.apply(&days).unwrap();
        assert_eq!(&years.as_primitive::<Date32Type>().values()[..4], &[-4748, 0, 10957, -365]);
        let months = Function::Month.apply(&days).unwrap();
        assert_eq!(&months.as_primitive::<Date32Type>().values()[..4], &[-4536, 0, 10988, -31]);
        let at: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![i64::MIN, i64::MAX, -1]).with_timezone("UTC"));
        let out = Function::Year.apply(&at).unwrap();
        assert_eq!(out.data_type(), at.data_type());
        assert_eq!(out.as_primitive::<TimestampNanosecondType>().value(2), -365 * 86_400_000_000_000);
        for seconds in [i64::MIN, i64::MAX] {
            let at: ArrayRef = Arc::new(PrimitiveArray::<TimestampSecondType>::from(vec![seconds]));
            Function::Month.apply(&at).unwrap();
        }
    }

    #[test]
    fn buckets_saturate() {
        let raw: ArrayRef = Arc::new(Int64Array::from(vec![7, -7, i64::MIN, i64::MAX]));
        let out = Function::Bucket(5).apply(&raw).unwrap();
        assert_eq!(out.as_primitive::<Int64Type>().values()[..3], [5, -10, i64::MIN]);
        Function::Bucket(u64::MAX).apply(&raw).unwrap();
        let raw: ArrayRef = Arc::new(UInt8Array::from(vec![255]));
        assert_eq!(Function::Bucket(1000).apply(&raw).unwrap().as_primitive::<UInt8Type>().value(0), 0);
        let raw: ArrayRef = Arc::new(Float64Array::from(vec![7.5, -0.5, f64::NAN, f64::INFINITY, -f64::MAX]));
        let out = Function::Bucket(5).apply(&raw).unwrap();
        assert_eq!(out.as_primitive::<Float64Type>().values()[..2], [5.0, -5.0]);
    }

    #[test]
    fn plans_show_ids_and_no_keys() {
        let e = expression(&Mask::Token { key: "k".into(), domain: "d".into() }, col("a"), &DataType::Utf8, &keys())
            .unwrap();
        assert!(!format!("{e:?}").contains("Keys"));
        assert_eq!(e.schema_name().to_string(), "mask_token('k','d',a)");
        assert_eq!(e.to_string(), "mask_token(a)");
    }

    #[test]
    fn refuses_what_a_type_cannot_carry() {
        let refused = |mask: Mask, t: DataType| expression(&mask, col("a"), &t, &keys()).unwrap_err().strip_backtrace();
        assert_eq!(
            refused(Mask::Token { key: "k".into(), domain: "d".into() }, DataType::Date32),
            "Error during planning: mask `hmac(key 'k', domain 'd')` does not apply to type `Date32`"
        );
        assert_eq!(
            refused(Mask::Token { key: "other".into(), domain: "d".into() }, DataType::Utf8),
            "Error during planning: token key `other` is not available"
        );
        for (mask, t) in [
            (Mask::First(0), DataType::Utf8),
            (Mask::Year, DataType::Utf8),
            (Mask::Bucket(0), DataType::Int64),
            (Mask::Const(ScalarValue::from("x")), DataType::Int64),
        ] {
            assert!(refused(mask, t).contains("does not apply to type"));
        }
    }
}
