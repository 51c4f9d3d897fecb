//! `show`, `diff`: what a version is, and what changed between two.

use super::{
    Done, Failed,
    build::out,
    query::{asked_of, name_and_pin, with},
};
use crate::{
    arguments::{Format, OutputArgs},
    context::Context,
    output,
};
use arrow::array::RecordBatch;
use custody_engine::{Compared, Contract};
use custody_model::{DatasetName, Pin, Problem};
use datafusion::scalar::ScalarValue;

const VERSIONS: &str = "SELECT version, published_at, published_by, row_count, content_root, status, because \
                        FROM system.catalog.versions \
                        WHERE dataset = $1 AND version = coalesce($2, (SELECT max(version) FROM system.catalog.versions WHERE dataset = $1))";
const COLUMNS: &str = "SELECT c.ordinal, c.column_name, c.data_type, array_to_string(c.classes, ' + ') AS classes, p.null_count, \
                       p.distinct_count, p.mean, p.small_rows \
                       FROM system.catalog.columns AS c LEFT JOIN system.quality.profiles AS p \
                       ON p.dataset = c.dataset AND p.version = c.version AND p.ordinal = c.ordinal \
                       WHERE c.dataset = $1 AND c.version = $2 AND c.ordinal > 0 ORDER BY c.ordinal";
const EXPECTATIONS: &str = "SELECT ordinal, expectation, action, checked, violations FROM system.quality.expectations \
                            WHERE dataset = $1 AND version = $2 ORDER BY ordinal";

/// A version with its columns, their profiles, and what its expectations found; as rows of `system`, each a governed read.
pub(crate) async fn show(context: &Context, version: &str, format: Option<Format>) -> Result<Done, Failed> {
    let (name, pin) = name_and_pin(version)?;
    let (engine, session) = context.session().await?;
    let number = match pin {
        Pin::Version(n) => i64::try_from(n).ok(),
        Pin::Newest | Pin::At(_) => None,
    };
    let asked = async {
        let named = ScalarValue::from(name.to_string().as_str());
        let versions = asked_of(&session, with(VERSIONS, vec![named.clone(), ScalarValue::Int64(number)])).await?;
        let Some(version) = first_number(&versions) else { return Err(custody_engine::table_not_found(&name)) };
        let of = || vec![named.clone(), ScalarValue::Int64(Some(version))];
        let columns = asked_of(&session, with(COLUMNS, of())).await?;
        let expectations = asked_of(&session, with(EXPECTATIONS, of())).await?;
        Ok([versions, columns, expectations])
    }
    .await;
    context.close(&engine).await?;
    let tables = asked?;
    for table in tables.iter().filter(|t| t.iter().any(|b| b.num_rows() > 0)) {
        output::batches(table, format, &OutputArgs::default())?;
    }
    Ok(Done::Well)
}

fn first_number(rows: &[RecordBatch]) -> Option<i64> {
    use arrow::array::AsArray;
    let batch = rows.iter().find(|b| b.num_rows() > 0)?;
    batch.column(0).as_primitive_opt::<arrow::datatypes::Int64Type>().map(|c| c.value(0))
}

/// `features.x@1..@2`, `features.x@1..2`, `features.x@1`: against the newest.
fn two_versions(text: &str) -> Result<(DatasetName, Pin, Pin), Problem> {
    let wrong =
        || Problem::new(2013, format!("`{text}` does not name two versions")).help("custody diff features.x@1..@2");
    let (name, base) = match text.split_once("..") {
        Some((base, _)) => name_and_pin(base)?,
        None => name_and_pin(text)?,
    };
    let Pin::Version(_) = base else { return Err(wrong()) };
    let later = match text.split_once("..") {
        Some((_, "")) | None => Pin::Newest,
        Some((_, later)) => Pin::Version(later.trim_start_matches(['@', 'v']).parse().map_err(|_| wrong())?),
    };
    Ok((name, base, later))
}

/// Exit code 5 where anything differs.
pub(crate) async fn diff(context: &Context, versions: &str) -> Result<Done, Failed> {
    let (name, base, later) = two_versions(versions)?;
    let (engine, session) = context.session().await?;
    let compared = session.compare(&name, base, later).await;
    context.close(&engine).await?;
    let compared = compared?;
    told(&compared).iter().for_each(|line| out(line));
    let same = compared.base.content == compared.at.content && compared.contract <= Contract::Metadata;
    Ok(if same { Done::Well } else { Done::With(5) })
}

fn told(compared: &Compared) -> Vec<String> {
    let word = match compared.base.content == compared.at.content && compared.contract == Contract::Data {
        true => "the same values",
        false => compared.contract.word(),
    };
    let mut lines = vec![format!("{} {} -> {}  {word}", compared.at.name, compared.base.version, compared.at.version)];
    if let Some([before, now]) = compared.rows {
        lines.push(format!("  rows {before} -> {now}"));
    }
    for column in &compared.columns {
        let Some(of) = column.now.as_ref().or(column.before.as_ref()) else { continue };
        let was = column.before.as_ref().filter(|b| column.now.as_ref().is_some_and(|n| n != *b));
        let nulls = |nullable: bool| if nullable { "" } else { " not null" };
        let was = was.map(|b| format!(", was {} {}{}", b.name, b.data_type, nulls(b.nullable)));
        let mut line = format!(
            "{} {:<18} {}{}{}",
            column.change.mark(),
            of.name,
            of.data_type,
            nulls(of.nullable),
            was.unwrap_or_default()
        );
        if let [Some(before), Some(now)] = &column.profiles {
            if let Some((a, b)) = before.mean.zip(now.mean).filter(|(a, b)| a != b) {
                line.push_str(&format!("  mean {a:.4} -> {b:.4}"));
            }
            if let Some((a, b)) = before.nulls.zip(now.nulls).filter(|(a, b)| a != b) {
                line.push_str(&format!("  nulls {a} -> {b}"));
            }
        }
        if let Some(drift) = column.drift {
            let ks = drift.ks.map(|ks| format!(", KS {ks:.3}")).unwrap_or_default();
            line.push_str(&format!("  {} (PSI {:.3}{ks})", drift.word(), drift.psi));
        }
        lines.push(line);
    }
    lines
}
