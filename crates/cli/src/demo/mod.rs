//! The clinic demo: a project folder and its synthetic data, made on the spot.
//!
//! What holds here: no download; the same seed gives the same bytes; every identifier is marked synthetic.

mod generate;
mod random;

pub(crate) use generate::{Size, generate};

use std::{fs, io, path::Path};

/// Files of the project, by path below its folder.
const FILES: &[(&str, &str)] = &[
    ("sources/clinic.sql", include_str!("../../demo/sources/clinic.sql")),
    ("features/lab_trend.sql", include_str!("../../demo/features/lab_trend.sql")),
    ("features/patient_profile.sql", include_str!("../../demo/features/patient_profile.sql")),
    ("features/diagnosis_burden.sql", include_str!("../../demo/features/diagnosis_burden.sql")),
    ("features/risk_inputs.sql", include_str!("../../demo/features/risk_inputs.sql")),
    ("training/mortality.sql", include_str!("../../demo/training/mortality.sql")),
    ("policies/clinic.cedar", include_str!("../../demo/policies/clinic.cedar")),
    ("policies/clinic.sql", include_str!("../../demo/policies/clinic.sql")),
    ("policies/tests/clinic.txt", include_str!("../../demo/policies/tests/clinic.txt")),
    ("tests/principals.toml", include_str!("../../demo/tests/principals.toml")),
    ("custody.toml", include_str!("../../demo/custody.toml")),
];

/// Writes the project's files. None may exist yet.
pub(crate) fn write_project(folder: &Path) -> io::Result<()> {
    for (path, text) in FILES {
        let to = folder.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::OpenOptions::new().write(true).create_new(true).open(&to)?;
        fs::write(&to, text)?;
    }
    Ok(())
}
