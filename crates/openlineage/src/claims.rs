//! What one event claims of each of its outputs.

use crate::import::{At, Claim, Fault, ForeignTable, Object};
use custody_model::{AssertedOutput, AssertedSource, Direct, FlowKind, Indirect};
use std::collections::{BTreeMap, BTreeSet};

/// Stands for which rows exist.
const ROWS: &str = "*";

/// A dataset that an event lists.
pub(crate) struct Input(ForeignTable);

impl Input {
    /// Its name and version.
    pub(crate) fn read(at: &At<'_>) -> Result<Self, Fault> {
        table(&at.object()?).map(Self)
    }
}

fn table(dataset: &Object<'_>) -> Result<ForeignTable, Fault> {
    let version = match facet(dataset, "version")? {
        None => None,
        // A version that is no number names something that a number cannot.
        Some(facet) => facet.need("datasetVersion")?.text()?.parse().ok().filter(|n| i64::try_from(*n).is_ok()),
    };
    Ok(ForeignTable {
        namespace: dataset.need("namespace")?.text()?.into(),
        name: dataset.need("name")?.text()?.into(),
        version,
    })
}

/// A facet that says something.
fn facet<'a>(dataset: &Object<'a>, name: &str) -> Result<Option<Object<'a>>, Fault> {
    let Some(facet) = dataset.inner("facets")?.map(|f| f.inner(name)).transpose()?.flatten() else { return Ok(None) };
    let deleted = facet.get("_deleted").map(|d| d.bool()).transpose()?.unwrap_or(false);
    Ok((!deleted).then_some(facet))
}

/// A source before its table has a number.
type Source = (ForeignTable, Option<String>, FlowKind, bool);

/// One output in the making.
#[derive(Default)]
struct Made {
    outputs: BTreeMap<String, BTreeSet<Source>>,
    rows: BTreeSet<Source>,
}

/// The claims of one event in the making.
pub(crate) struct Claims {
    inputs: BTreeSet<ForeignTable>,
    /// By output; the same one twice says both.
    made: BTreeMap<ForeignTable, Made>,
    /// What they may still hold.
    room: usize,
    most: usize,
}

impl Claims {
    /// None yet, of an event with these inputs.
    pub(crate) fn new(inputs: Vec<Input>, most: usize) -> Self {
        Self { inputs: inputs.into_iter().map(|i| i.0).collect(), made: BTreeMap::new(), room: most, most }
    }

    /// Takes an output; `always`: also one without column lineage.
    pub(crate) fn add(&mut self, at: &At<'_>, always: bool) -> Result<(), Fault> {
        let output = at.object()?;
        let (table, facet) = (table(&output)?, facet(&output, "columnLineage")?);
        if facet.is_none() && !always {
            return Ok(());
        }
        let inputs: usize = self.inputs.iter().map(ForeignTable::weight).sum();
        self.take(inputs + table.weight())?;
        let mut made = self.made.remove(&table).unwrap_or_default();
        if let Some(facet) = &facet {
            self.lineage(facet, &mut made)?;
        }
        self.made.insert(table, made);
        Ok(())
    }

    fn take(&mut self, weight: usize) -> Result<(), Fault> {
        let left = self.room.checked_sub(weight);
        self.room = left.ok_or(Fault::Bound { what: "its claims have".into(), unit: "bytes", most: self.most })?;
        Ok(())
    }

    fn lineage(&mut self, facet: &Object<'_>, made: &mut Made) -> Result<(), Fault> {
        for field in facet.need("fields")?.object()?.named() {
            let (name, field) = field?;
            let field = field.object()?;
            let old = OldForm::read(&field)?;
            self.take(name.len() + 16)?;
            let sources = match name {
                ROWS => &mut made.rows,
                column => made.outputs.entry(column.into()).or_default(),
            };
            for input in field.need("inputFields")?.list()? {
                self.input_field(&input.object()?, old, sources)?;
            }
        }
        for input in facet.list("dataset")? {
            self.input_field(&input.object()?, OldForm::Decides, &mut made.rows)?;
        }
        Ok(())
    }

    fn input_field(&mut self, input: &Object<'_>, old: OldForm, sources: &mut BTreeSet<Source>) -> Result<(), Fault> {
        let table = self.version_of(input.need("namespace")?.text()?, input.need("name")?.text()?);
        let column = Some(input.need("field")?.text()?).filter(|c| *c != ROWS).map(str::to_string);
        let mut ways = input.list("transformations")?.iter().map(way).collect::<Result<Vec<_>, _>>()?;
        if ways.is_empty() {
            ways.push(old.way());
        }
        for (kind, masking) in ways {
            self.take(table.weight() + column.as_ref().map_or(0, String::len))?;
            sources.insert((table.clone(), column.clone(), kind, masking));
        }
        Ok(())
    }

    /// The input of this name; where it is there in several versions, or not at all, the version is not known.
    fn version_of(&self, namespace: &str, name: &str) -> ForeignTable {
        let unknown = ForeignTable { namespace: namespace.into(), name: name.into(), version: None };
        let mut same = self.inputs.range(&unknown..).take_while(|i| i.namespace == namespace && i.name == name);
        match (same.next(), same.next()) {
            (Some(one), None) => one.clone(),
            _ => unknown,
        }
    }

    /// The claims, each with its tables numbered.
    pub(crate) fn done(self) -> Vec<Claim> {
        let inputs = &self.inputs;
        self.made.into_iter().map(|(output, made)| made.numbered(output, inputs)).collect()
    }
}

impl Made {
    fn numbered(self, output: ForeignTable, inputs: &BTreeSet<ForeignTable>) -> Claim {
        let named = self.outputs.values().flatten().chain(&self.rows).map(|source| &source.0);
        let all: BTreeSet<ForeignTable> = inputs.iter().chain(named).cloned().collect();
        let numbers: BTreeMap<&ForeignTable, u32> = all.iter().zip(1u32..).collect();
        let numbered = |sources: BTreeSet<Source>| -> Vec<AssertedSource> {
            let one = |(table, column, kind, masking): Source| {
                let table = numbers.get(&table).copied()?;
                Some(AssertedSource { table, column, kind, masking })
            };
            // Tables are numbered in their own order, so the list stays sorted.
            sources.into_iter().filter_map(one).collect()
        };
        let rows = numbered(self.rows);
        let outputs =
            self.outputs.into_iter().map(|(name, from)| AssertedOutput { name, from: numbered(from) }).collect();
        Claim { tables: [output].into_iter().chain(all.iter().cloned()).collect(), outputs, rows }
    }
}

impl ForeignTable {
    fn weight(&self) -> usize {
        self.namespace.len() + self.name.len() + 16
    }
}

impl Claim {
    /// About how many bytes it holds.
    pub(crate) fn weight(&self) -> usize {
        let source = |s: &AssertedSource| s.column.as_ref().map_or(0, String::len) + 16;
        let tables: usize = self.tables.iter().map(ForeignTable::weight).sum();
        let outputs = self.outputs.iter().map(|o| o.name.len() + o.from.iter().map(source).sum::<usize>() + 16);
        tables + outputs.sum::<usize>() + self.rows.iter().map(source).sum::<usize>()
    }
}

/// What a source without `transformations` means: the form of the facet before 1-1-0 has one word for a whole column.
#[derive(Clone, Copy)]
enum OldForm {
    Identity,
    Masked,
    Unsaid,
    Decides,
}

impl OldForm {
    fn read(field: &Object<'_>) -> Result<Self, Fault> {
        let Some(word) = field.get("transformationType") else { return Ok(Self::Unsaid) };
        Ok(match word.text()?.to_ascii_uppercase().as_str() {
            "IDENTITY" => Self::Identity,
            "MASKED" => Self::Masked,
            _ => Self::Unsaid,
        })
    }

    fn way(self) -> (FlowKind, bool) {
        match self {
            Self::Identity => (FlowKind::Direct(Direct::Identity), false),
            Self::Masked => (FlowKind::Direct(Direct::Transformation), true),
            Self::Unsaid => (FlowKind::Direct(Direct::Transformation), false),
            Self::Decides => (FlowKind::Indirect(Indirect::Conditional), false),
        }
    }
}

/// A transformation. A subtype that OpenLineage does not define is the widest one of its type.
fn way(at: &At<'_>) -> Result<(FlowKind, bool), Fault> {
    let way = at.object()?;
    let subtype = way.get("subtype").map(|s| s.text()).transpose()?.unwrap_or_default().to_ascii_uppercase();
    let kind = way.need("type")?;
    let kind = match kind.text()? {
        "DIRECT" => FlowKind::Direct(match subtype.as_str() {
            "IDENTITY" => Direct::Identity,
            "AGGREGATION" => Direct::Aggregation,
            _ => Direct::Transformation,
        }),
        "INDIRECT" => FlowKind::Indirect(match subtype.as_str() {
            "FILTER" => Indirect::Filter,
            "JOIN" => Indirect::Join,
            "GROUP_BY" => Indirect::GroupBy,
            "SORT" => Indirect::Sort,
            "WINDOW" => Indirect::Window,
            _ => Indirect::Conditional,
        }),
        _ => return Err(kind.wrong("is neither DIRECT nor INDIRECT")),
    };
    Ok((kind, way.get("masking").map(|m| m.bool()).transpose()?.unwrap_or(false)))
}
