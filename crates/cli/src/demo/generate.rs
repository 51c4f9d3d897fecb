//! A cohort with planted effects: low HDL, high FIB-4, age and diagnoses raise the chance of `died_2y`.
//! Every fact has a time when it was true and a later one when it was loaded; one in thirty comes very late.

use super::random::Random;
use arrow::{
    array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    record_batch::RecordBatch,
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use std::{fs, io, path::Path, sync::Arc};

const DAY: i64 = 86_400_000_000;
/// 2015-01-01T00:00:00Z in microseconds.
const START: i64 = 1_420_070_400_000_000;
const DAYS: u64 = 9 * 365;
const REGIONS: [&str; 3] = ["eu", "us", "apac"];
const TESTS: [(&str, f64, f64); 6] = [
    ("hdl", 52.0, 14.0),
    ("chol", 198.0, 38.0),
    ("sbp", 128.0, 16.0),
    ("dbp", 79.0, 10.0),
    ("smoke", 0.25, 0.0),
    ("fib4", 1.4, 0.6),
];
const CODES: [&str; 8] = ["E11", "I10", "K76.0", "E78", "N18", "I25", "J44", "F32"];
const GIVEN: [&str; 8] = ["Ada", "Bela", "Cleo", "Dov", "Eno", "Fia", "Gus", "Hana"];
const FAMILY: [&str; 8] = ["Amber", "Birch", "Cedar", "Dune", "Elm", "Fjord", "Grove", "Heath"];

/// How many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) patients: u64,
    pub(crate) labs: u64,
    pub(crate) diagnoses: u64,
}

impl Size {
    /// The full cohort.
    pub(crate) const FULL: Self = Self { patients: 17_549, labs: 400_123, diagnoses: 34_340 };

    /// One in `n` of everything.
    pub(crate) fn divided(n: u64) -> Self {
        let n = n.max(1);
        Self { patients: Self::FULL.patients / n, labs: Self::FULL.labs / n, diagnoses: Self::FULL.diagnoses / n }
    }
}

/// What decides a patient's chances, so that labs, diagnoses and landmarks agree.
struct Patient {
    born: i32,
    hdl: f64,
    fib4: f64,
    diagnoses: u64,
}

/// Writes `patients` as CSV and the rest as Parquet below `raw`. Gives the rows of each.
pub(crate) fn generate(raw: &Path, seed: u64, size: Size) -> io::Result<Vec<(&'static str, u64)>> {
    let mut cohort: Vec<Patient> = {
        let mut r = Random::new(seed, "cohort");
        (0..size.patients)
            .map(|_| Patient {
                born: 2_700 - r.below(60 * 365) as i32,
                hdl: r.normal(52.0, 12.0),
                fib4: r.normal(1.4, 0.5).max(0.2),
                diagnoses: 0,
            })
            .collect()
    };
    let diagnoses = diagnoses(seed, size, &mut cohort)?;
    parquet(&raw.join("diagnoses"), &diagnoses)?;
    let labs = labs(seed, size, &cohort)?;
    parquet(&raw.join("labs"), &labs)?;
    let landmarks = landmarks(seed, &cohort)?;
    parquet(&raw.join("landmarks"), &landmarks)?;
    patients(&raw.join("patients"), seed, &cohort)?;
    Ok(vec![
        ("patients", size.patients),
        ("labs", size.labs),
        ("diagnoses", size.diagnoses),
        ("landmarks", landmarks.num_rows() as u64),
    ])
}

fn patients(folder: &Path, seed: u64, cohort: &[Patient]) -> io::Result<()> {
    let mut r = Random::new(seed, "patients");
    let mut text =
        String::from("id,name,national_id,postcode,birth_date,sex,weight,height,region,consent,registered_at\n");
    for (i, patient) in cohort.iter().enumerate() {
        let height = r.normal(1.70, 0.09);
        let weight = (r.normal(27.0, 4.5) * height * height).clamp(38.0, 210.0);
        let line = format!(
            "{},Synthetic {} {},SYN-{:03}-{:02}-{:04},SYN{:05},{},{},{:.1},{:.2},{},{},{}\n",
            i + 1,
            r.pick(&GIVEN).copied().unwrap_or_default(),
            r.pick(&FAMILY).copied().unwrap_or_default(),
            r.below(1000),
            r.below(100),
            r.below(10_000),
            r.below(100_000),
            date(patient.born),
            if r.chance(0.5) { "f" } else { "m" },
            weight,
            height.clamp(1.40, 2.10),
            r.pick(&REGIONS).copied().unwrap_or_default(),
            r.chance(0.9),
            instant(START - DAY * (r.below(2 * 365) as i64 + 1)),
        );
        text.push_str(&line);
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("part-0.csv"), text)
}

fn labs(seed: u64, size: Size, cohort: &[Patient]) -> io::Result<RecordBatch> {
    let mut r = Random::new(seed, "labs");
    let n = size.labs as usize;
    let (mut ids, mut times, mut tests, mut values, mut loaded) = (
        Vec::with_capacity(n),
        Vec::with_capacity(n),
        Vec::with_capacity(n),
        Vec::with_capacity(n),
        Vec::with_capacity(n),
    );
    for _ in 0..n {
        let who = r.below(cohort.len() as u64) as usize;
        let at = START + DAY * r.below(DAYS) as i64 + 3_600_000_000 * (7 + r.below(10) as i64);
        let (test, mean, deviation) = TESTS[r.below(6) as usize];
        let value = match test {
            "smoke" => f64::from(u8::from(r.chance(mean))),
            "hdl" => r.normal(cohort[who].hdl, 6.0).max(8.0),
            "fib4" => r.normal(cohort[who].fib4, 0.25).max(0.1),
            _ => r.normal(mean, deviation),
        };
        ids.push(who as i64 + 1);
        times.push(at);
        tests.push(test);
        values.push((!r.chance(0.01)).then(|| (value * 10.0).round() / 10.0));
        loaded.push(at + delay(&mut r));
    }
    batch(vec![
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("ts", utc(times)),
        ("test", Arc::new(StringArray::from(tests))),
        ("value", Arc::new(Float64Array::from(values))),
        ("loaded_at", utc(loaded)),
    ])
}

fn diagnoses(seed: u64, size: Size, cohort: &mut [Patient]) -> io::Result<RecordBatch> {
    let mut r = Random::new(seed, "diagnoses");
    let (mut ids, mut times, mut codes, mut loaded) = (vec![], vec![], vec![], vec![]);
    for _ in 0..size.diagnoses {
        let who = r.below(cohort.len() as u64) as usize;
        let at = START + DAY * r.below(DAYS) as i64;
        cohort[who].diagnoses += 1;
        ids.push(who as i64 + 1);
        times.push(at);
        codes.push(r.pick(&CODES).copied().unwrap_or_default());
        loaded.push(at + delay(&mut r));
    }
    batch(vec![
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("ts", utc(times)),
        ("code", Arc::new(StringArray::from(codes))),
        ("loaded_at", utc(loaded)),
    ])
}

/// One row a patient and year, five of the nine years each.
fn landmarks(seed: u64, cohort: &[Patient]) -> io::Result<RecordBatch> {
    let mut r = Random::new(seed, "landmarks");
    let (mut ids, mut times, mut died) = (vec![], vec![], vec![]);
    for (i, patient) in cohort.iter().enumerate() {
        let first = r.below(4) as i64;
        for year in first..first + 5 {
            let at = START + DAY * 365 * (year + 1);
            let age = (at / DAY - i64::from(patient.born)) as f64 / 365.25;
            let risk = 0.02
                + 0.0009 * (age - 40.0).max(0.0)
                + 0.0018 * (50.0 - patient.hdl).max(0.0)
                + 0.035 * (patient.fib4 - 1.45).max(0.0)
                + 0.006 * patient.diagnoses as f64;
            ids.push(i as i64 + 1);
            times.push(at);
            died.push(r.chance(risk.clamp(0.0, 0.95)));
        }
    }
    batch(vec![
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef),
        ("ts", utc(times)),
        ("died_2y", Arc::new(BooleanArray::from(died))),
    ])
}

/// Most facts come within days; one in thirty after one to nine months.
fn delay(r: &mut Random) -> i64 {
    let days = if r.chance(1.0 / 30.0) { 30 + r.below(240) } else { r.below(5) };
    DAY * days as i64 + 60_000_000 * (1 + r.below(1200) as i64)
}

fn utc(times: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> io::Result<RecordBatch> {
    RecordBatch::try_from_iter(columns).map_err(io::Error::other)
}

fn parquet(folder: &Path, rows: &RecordBatch) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("custody demo 1".into())
        .set_max_row_group_row_count(Some(65_536))
        .build();
    let file = fs::File::create(folder.join("part-0.parquet"))?;
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).map_err(io::Error::other)?;
    writer.write(rows).map_err(io::Error::other)?;
    writer.close().map_err(io::Error::other)?;
    Ok(())
}

/// `YYYY-MM-DD` of days since 1970.
fn date(days: i32) -> String {
    Date32Array::value_as_date(&Date32Array::from(vec![days]), 0).map(|d| d.to_string()).unwrap_or_default()
}

/// `YYYY-MM-DDTHH:MM:SSZ` of microseconds since 1970.
fn instant(micros: i64) -> String {
    TimestampMicrosecondArray::from(vec![micros])
        .value_as_datetime(0)
        .map(|t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64) -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path(), seed, Size::divided(200)).unwrap();
        ["labs/part-0.parquet", "diagnoses/part-0.parquet", "landmarks/part-0.parquet", "patients/part-0.csv"]
            .map(|f| fs::read(folder.path().join(f)).unwrap())
            .to_vec()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn identifiers_are_marked_synthetic() {
        let text = String::from_utf8(bytes(7)[3].clone()).unwrap();
        assert!(text.lines().skip(1).all(|l| l.contains("Synthetic ") && l.contains("SYN-")));
    }
}
