//! A policy bundle: Cedar policies and policy SQL, read, checked against the schema and against each other.
//!
//! What is loaded is complete: every class, row set and guard that is named is declared, every known column exists and
//! every mask fits its type. All that is wrong is reported at once. A dataset that is not known yet may be named; what
//! the bundle says of it is held against the columns that a decision is given, and denies where it does not fit.

use crate::{
    cedar::{self, FilePolicy},
    ddl::{self, ColumnName, MaskSpec, MaskTarget, Statement, TableName, What},
    digest::Digest,
    grant::Mask,
    mask,
    place::{Fault, NAME, Place},
    rows::{self, Bound, Literal, Name, RowExpr},
};
use arrow_schema::DataType;
use cedar_policy::{ActionConstraint, Effect, Entities, EntityUid, PrincipalConstraint, ResourceConstraint, Schema};
use custody_model::{
    Class, ClassSet, DatasetName, Declassification, Durability, FieldId, Hash, PolicyId, Problem, RuleVersion, Rung,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

/// The version of the library of masks: part of every policy hash.
pub(crate) const MASK_LIBRARY_VERSION: u64 = 1;

/// The datasets that a bundle may speak of, by name: those of the catalog, and those that project files declare.
pub trait Tables {
    /// The columns of a dataset, in order; `None` where the name is not known yet.
    fn columns(&self, name: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>>;
}

/// One policy as `system.policy.policies` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRow {
    /// A Cedar policy's id; `schema.table/name` of a row set or guard; the class or name of another statement.
    pub id: PolicyId,
    /// `permit`, `forbid`, `row_set`, `guard`, `mask`, `classification`, `group_floor`, `durability`, `declassification`.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

/// One row set or guard as `system.policy.row_sets` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowSetRow {
    /// Its name, unique within the dataset.
    pub name: PolicyId,
    /// Whose rows.
    pub dataset: DatasetName,
    /// Whether it is a guard.
    pub guard: bool,
    /// Its condition as written.
    pub predicate: String,
}

/// One tag as `system.policy.tags` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagRow {
    /// The dataset.
    pub dataset: DatasetName,
    /// The column by the name in the bundle.
    pub column: String,
    /// The column's identity; `None` where the dataset was not known when the bundle was loaded.
    pub field: Option<FieldId>,
    /// The class, as tagged.
    pub class: Class,
}

/// A bundle that passed every check.
pub struct Bundle {
    hash: Hash,
    files: Vec<(String, Vec<u8>)>,
    schema: Schema,
    /// The actions and their groups, which every question needs.
    pub(crate) actions: Entities,
    pub(crate) policies: Vec<Indexed>,
    /// Policies by the role or principal that their head names, and those whose head holds for every principal.
    pub(crate) by_principal: HashMap<EntityUid, Vec<usize>>,
    pub(crate) any_principal: Vec<usize>,
    /// Columns that some policy names, by the table's id.
    pub(crate) named_columns: HashMap<String, HashSet<String>>,
    /// Entitlement tables that were not known.
    waits: BTreeSet<DatasetName>,
    parents: BTreeMap<Class, BTreeSet<Class>>,
    closures: BTreeMap<Class, ClassSet>,
    tables: BTreeMap<DatasetName, TablePolicy>,
    class_masks: BTreeMap<Class, BTreeMap<Rung, PlacedMask>>,
    declassifications: Vec<Declassification>,
    rows: Vec<PolicyRow>,
}

/// A Cedar policy with its head taken apart, so that a decision looks only at policies whose head can hold.
pub(crate) struct Indexed {
    pub(crate) policy: cedar_policy::Policy,
    pub(crate) permit: bool,
    pub(crate) resource: ResourceConstraint,
    /// Of a permit the highest rung that it gives, of a forbid the lowest that it takes.
    pub(crate) rung: Rung,
    /// Whether the head can hold for a column, and for each of the table actions.
    pub(crate) columns: bool,
    pub(crate) actions: BTreeSet<&'static str>,
    /// Whether its conditions hold for all columns or for none.
    pub(crate) steady: bool,
}

/// What a bundle says of one dataset.
#[derive(Default)]
pub(crate) struct TablePolicy {
    /// Its columns when the bundle was loaded: names in the bundle mean these fields.
    pub(crate) bound: Option<Vec<(FieldId, String, DataType)>>,
    /// Where each field is in `bound`.
    fields: HashMap<FieldId, usize>,
    tags: BTreeMap<String, BTreeSet<Class>>,
    pub(crate) row_sets: Vec<RowSet>,
    pub(crate) guards: Vec<RowSet>,
    masks: BTreeMap<String, BTreeMap<Rung, PlacedMask>>,
    pub(crate) floor: Option<(u64, String)>,
    pub(crate) durability: Option<Durability>,
}

/// A row set or guard.
pub(crate) struct RowSet {
    pub(crate) name: PolicyId,
    pub(crate) expr: RowExpr,
    text: String,
}

#[derive(Clone)]
struct PlacedMask {
    spec: MaskSpec,
    file: usize,
    at: Place,
}

/// The parameters for a column at a rung.
enum Choice<'a> {
    Nothing,
    One(&'a PlacedMask),
    Disagree(&'a PlacedMask, &'a PlacedMask),
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({}, {} files)", self.hash.short(), self.files.len())
    }
}

impl Bundle {
    /// Reads and checks the files of a bundle. `schema` is the catalog as of the entry that activates the bundle,
    /// together with what the project's files declare.
    pub fn load(files: &[(String, Vec<u8>)], schema: &dyn Tables) -> Result<Self, Vec<Problem>> {
        let mut files = files.to_vec();
        files.sort();
        let mut loader = Loader::new(files, schema)?;
        let mut policies = vec![];
        let mut statements = vec![];
        for index in 0..loader.bundle.files.len() {
            loader.read(index, &mut policies, &mut statements);
        }
        loader.classifications(&statements);
        loader.declarations(statements);
        loader.index(policies);
        loader.check_masks();
        let Loader { mut problems, bundle, .. } = loader;
        if problems.is_empty() {
            return Ok(bundle);
        }
        problems.sort_by_key(|p| (p.file.clone(), p.labels.first().map(|l| (l.start, l.end))));
        Err(problems)
    }

    /// PolicyHash: SHA3-256 over the versions of the Cedar schema and of the masks, and the files by path.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Path and bytes of each file, by path.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// Every policy with its text.
    pub fn policies(&self) -> &[PolicyRow] {
        &self.rows
    }

    /// Every row set and guard, by dataset.
    pub fn row_sets(&self) -> Vec<RowSetRow> {
        let row = |dataset: &DatasetName, guard, set: &RowSet| RowSetRow {
            name: set.name.clone(),
            dataset: dataset.clone(),
            guard,
            predicate: set.text.clone(),
        };
        let of = |(name, table): (&DatasetName, &TablePolicy)| {
            let sets = table.row_sets.iter().map(|s| row(name, false, s));
            sets.chain(table.guards.iter().map(|s| row(name, true, s))).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(of).collect()
    }

    /// Every tag, as written.
    pub fn tags(&self) -> Vec<TagRow> {
        let mut rows = vec![];
        for (dataset, table) in &self.tables {
            for (column, classes) in &table.tags {
                let field = table.bound.iter().flatten().find(|(_, name, _)| name == column).map(|(field, ..)| *field);
                rows.extend(classes.iter().map(|class| TagRow {
                    dataset: dataset.clone(),
                    column: column.clone(),
                    field,
                    class: class.clone(),
                }));
            }
        }
        rows
    }

    /// A class and all that it is UNDER. A class that the bundle does not declare stands alone.
    pub fn classes_under(&self, class: &Class) -> ClassSet {
        self.closures.get(class).cloned().unwrap_or_else(|| BTreeSet::from([class.clone()]))
    }

    /// The set with all that its classes are UNDER.
    pub fn close(&self, classes: &ClassSet) -> ClassSet {
        classes.iter().flat_map(|c| self.classes_under(c)).collect()
    }

    /// The tags of a column by its name in the bundle, closed under UNDER.
    pub fn tags_of(&self, dataset: &DatasetName, column: &str) -> ClassSet {
        let tags = self.tables.get(dataset).and_then(|t| t.tags.get(column));
        tags.map(|tags| self.close(tags)).unwrap_or_default()
    }

    /// The tags of a column by its identity, closed under UNDER: what the bundle's name for it says, whatever it is
    /// called in the version at hand.
    pub fn tags_of_field(&self, dataset: &DatasetName, field: FieldId, name: &str) -> ClassSet {
        self.policy_name(dataset, field, name).map(|name| self.tags_of(dataset, name)).unwrap_or_default()
    }

    /// Every declassification rule, as a rule of the bundle with this epoch.
    pub fn declassifications(&self, epoch: u64) -> Vec<Declassification> {
        let with = |rule: &Declassification| {
            let version = RuleVersion { rule: rule.version.rule.clone(), epoch };
            Declassification { version, ..rule.clone() }
        };
        self.declassifications.iter().map(with).collect()
    }

    /// The least durability of the entries of a read of this dataset.
    pub fn durability(&self, dataset: &DatasetName) -> Durability {
        self.tables.get(dataset).and_then(|t| t.durability).unwrap_or_default()
    }

    /// Ids of the token keys that a mask of this dataset may use: its columns' own, and those of every class, which a
    /// column may inherit.
    pub fn token_keys(&self, dataset: &DatasetName) -> BTreeSet<String> {
        let own = self.tables.get(dataset).into_iter().flat_map(|t| t.masks.values());
        let masks = self.class_masks.values().chain(own).flat_map(BTreeMap::values);
        masks
            .filter_map(|mask| match &mask.spec {
                MaskSpec::Token { key, .. } => Some(key.clone()),
                MaskSpec::Null
                | MaskSpec::Const(_)
                | MaskSpec::First(_)
                | MaskSpec::Last(_)
                | MaskSpec::Year
                | MaskSpec::Month
                | MaskSpec::Bucket(_) => None,
            })
            .collect()
    }

    /// The mask of a column of this type at a rung, where parameters are given and fit. `column` is its name in the
    /// bundle; parameters FOR COLUMN win over those of its most specific classes. Redact needs none: NULL.
    pub fn mask(
        &self,
        dataset: &DatasetName,
        column: &str,
        classes: &ClassSet,
        rung: Rung,
        data_type: &DataType,
    ) -> Option<Mask> {
        let chosen = match self.choice(dataset, column, classes, rung) {
            Choice::One(mask) => fit(&mask.spec, data_type),
            Choice::Nothing | Choice::Disagree(..) => None,
        };
        chosen.or((rung == Rung::Redact).then_some(Mask::Null))
    }

    pub(crate) fn table(&self, dataset: &DatasetName) -> Option<&TablePolicy> {
        self.tables.get(dataset)
    }

    /// What the bundle calls a column: the name it had when the bundle was loaded, else its own, unless that name
    /// means another field.
    pub(crate) fn policy_name<'a>(&'a self, dataset: &DatasetName, field: FieldId, name: &'a str) -> Option<&'a str> {
        match self.tables.get(dataset) {
            Some(table) => table.policy_name(field, name),
            None => Some(name),
        }
    }

    /// Entitlement tables that were not known when the bundle was loaded: until it is loaded again, row sets that read them
    /// give nothing.
    pub fn waits_for(&self) -> &BTreeSet<DatasetName> {
        &self.waits
    }

    /// A column of an entitlement table as it was when the bundle was loaded.
    pub(crate) fn entitlement(&self, table: &DatasetName, column: &str) -> Option<Bound> {
        let (_, name, data_type) = self.tables.get(table)?.bound.as_ref()?.iter().find(|(_, n, _)| n == column)?;
        Some(Bound { name: name.clone(), data_type: data_type.clone() })
    }

    /// The classes of a closed set that no other class of it is UNDER.
    pub(crate) fn most_specific<'a>(&self, classes: &'a ClassSet) -> Vec<&'a Class> {
        let above = |c: &Class, d: &Class| c != d && self.closures.get(d).is_some_and(|under| under.contains(c));
        classes.iter().filter(|c| !classes.iter().any(|d| above(c, d))).collect()
    }

    fn choice(&self, dataset: &DatasetName, column: &str, classes: &ClassSet, rung: Rung) -> Choice<'_> {
        if let Some(mask) = self.tables.get(dataset).and_then(|t| t.masks.get(column)).and_then(|m| m.get(&rung)) {
            return Choice::One(mask);
        }
        let mut found: Vec<&PlacedMask> = vec![];
        for class in self.most_specific(classes) {
            self.nearest(class, rung, &mut found);
        }
        match found.as_slice() {
            [] => Choice::Nothing,
            [one, rest @ ..] => {
                rest.iter().find(|m| m.spec != one.spec).map_or(Choice::One(one), |other| Choice::Disagree(one, other))
            }
        }
    }

    /// The class's own parameters, else the nearest of each class that it is UNDER.
    fn nearest<'a>(&'a self, class: &Class, rung: Rung, found: &mut Vec<&'a PlacedMask>) {
        match self.class_masks.get(class).and_then(|m| m.get(&rung)) {
            Some(mask) => found.push(mask),
            None => self.parents.get(class).into_iter().flatten().for_each(|parent| self.nearest(parent, rung, found)),
        }
    }
}

impl TablePolicy {
    /// What the bundle calls a column of this table.
    pub(crate) fn policy_name<'a>(&'a self, field: FieldId, name: &'a str) -> Option<&'a str> {
        let Some(bound) = &self.bound else { return Some(name) };
        match self.fields.get(&field).and_then(|i| bound.get(*i)) {
            Some((_, name, _)) => Some(name),
            None => (!bound.iter().any(|(_, n, _)| n == name)).then_some(name),
        }
    }

    /// The tags of a column by its name in the bundle, as written.
    pub(crate) fn tags(&self, column: &str) -> Option<&BTreeSet<Class>> {
        self.tags.get(column)
    }
}

/// The mask for a type, or `None` where it does not fit.
fn fit(spec: &MaskSpec, data_type: &DataType) -> Option<Mask> {
    let mask = match spec {
        MaskSpec::Null => Mask::Null,
        MaskSpec::Const(literal) => Mask::Const(constant(literal, data_type)?),
        MaskSpec::Token { key, domain } => Mask::Token { key: key.clone(), domain: domain.clone() },
        MaskSpec::First(n) => Mask::First(*n),
        MaskSpec::Last(n) => Mask::Last(*n),
        MaskSpec::Year => Mask::Year,
        MaskSpec::Month => Mask::Month,
        MaskSpec::Bucket(width) => Mask::Bucket(*width),
    };
    mask::supports(&mask, data_type).then_some(mask)
}

fn constant(literal: &Literal, data_type: &DataType) -> Option<datafusion_common::ScalarValue> {
    let nowhere = Place::bytes("", 0, 0);
    rows::cast(literal, data_type, nowhere).ok()
}

fn describe(spec: &MaskSpec) -> &'static str {
    match spec {
        MaskSpec::Null => "`null`",
        MaskSpec::Const(_) => "`const` needs a literal of the column's type",
        MaskSpec::Token { .. } => "`hmac` needs text or Int64",
        MaskSpec::First(_) => "`first` needs text",
        MaskSpec::Last(_) => "`last` needs text",
        MaskSpec::Year => "`year` needs a date or timestamp",
        MaskSpec::Month => "`month` needs a date or timestamp",
        MaskSpec::Bucket(_) => "`bucket` needs a number",
    }
}

/// PolicyHash of files, in whatever order they are given: whether they differ from the active bundle needs no loading.
pub fn policy_hash(files: &[(String, Vec<u8>)]) -> Hash {
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    let mut hash = Digest::new("custody/policy/v1");
    hash.number(cedar::SCHEMA_VERSION).number(MASK_LIBRARY_VERSION).number(files.len() as u64);
    for (path, bytes) in files {
        hash.text(path).bytes(bytes);
    }
    hash.finish()
}

/// A bundle in the making.
struct Loader<'a> {
    bundle: Bundle,
    catalog: &'a dyn Tables,
    problems: Vec<Problem>,
}

impl<'a> Loader<'a> {
    fn new(files: Vec<(String, Vec<u8>)>, catalog: &'a dyn Tables) -> Result<Self, Vec<Problem>> {
        let schema = match Schema::from_cedarschema_str(&cedar::schema_text()) {
            Ok((schema, _)) => schema,
            Err(error) => return Err(vec![Problem::bug(format!("the policy schema cannot be read: {error}"))]),
        };
        let actions = schema
            .action_entities()
            .map_err(|e| vec![Problem::bug(format!("the policy schema has no actions: {e}"))])?;
        let bundle = Bundle {
            hash: policy_hash(&files),
            files,
            schema,
            actions,
            policies: vec![],
            by_principal: HashMap::new(),
            any_principal: vec![],
            named_columns: HashMap::new(),
            waits: BTreeSet::new(),
            parents: BTreeMap::new(),
            closures: BTreeMap::new(),
            tables: BTreeMap::new(),
            class_masks: BTreeMap::new(),
            declassifications: vec![],
            rows: vec![],
        };
        Ok(Self { bundle, catalog, problems: vec![] })
    }

    fn report(&mut self, file: usize, fault: Fault) {
        let path = self.bundle.files.get(file).map(|(path, _)| path.as_str()).unwrap_or_default();
        self.problems.push(fault.problem(path));
    }

    fn read(
        &mut self,
        index: usize,
        policies: &mut Vec<(usize, FilePolicy)>,
        statements: &mut Vec<(usize, Statement)>,
    ) {
        let (path, bytes) = self.bundle.files[index].clone();
        let nowhere = Place::bytes("", 0, 0);
        if index > 0 && self.bundle.files[index - 1].0 == path {
            return self.report(index, Fault::conflict(format!("file `{path}` is given twice"), nowhere));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return self.report(index, Fault::syntax(format!("file `{path}` is not UTF-8"), nowhere));
        };
        let faults = if path.ends_with(".cedar") {
            let (found, faults) = cedar::parse(&path, &text, &self.bundle.schema);
            policies.extend(found.into_iter().map(|p| (index, p)));
            faults
        } else if path.ends_with(".sql") {
            let (found, faults) = ddl::parse(&text);
            statements.extend(found.into_iter().map(|s| (index, s)));
            faults
        } else {
            vec![Fault::form(format!("file `{path}` is neither `.cedar` nor `.sql`"), nowhere)]
        };
        faults.into_iter().for_each(|fault| self.report(index, fault));
    }

    /// Declares the classes first: every other statement may name any of them.
    fn classifications(&mut self, statements: &[(usize, Statement)]) {
        for (file, statement) in statements {
            if let What::Classification { name, under } = &statement.what {
                let parents = under.iter().map(ddl::class).collect();
                if self.bundle.parents.insert(ddl::class(name), parents).is_some() {
                    let fault = Fault::conflict(format!("class `{}` is declared twice", name.text), name.at);
                    self.report(*file, fault.help("keep one; UNDER takes several classes"));
                }
            }
        }
        for (file, statement) in statements {
            if let What::Classification { name, under } = &statement.what {
                for parent in under {
                    self.declared(*file, parent);
                }
                let class = ddl::class(name);
                let mut closure = ClassSet::from([class.clone()]);
                let mut open: Vec<&Class> = self.bundle.parents.get(&class).into_iter().flatten().collect();
                let mut cyclic = false;
                while let Some(next) = open.pop() {
                    cyclic |= *next == class;
                    if closure.insert(next.clone()) {
                        open.extend(self.bundle.parents.get(next).into_iter().flatten());
                    }
                }
                if cyclic {
                    let message = format!("class `{}` is UNDER itself", name.text);
                    let fault = Fault::conflict(message, statement.at).help("leave one UNDER of the circle out");
                    self.report(*file, fault);
                }
                self.bundle.closures.insert(class, closure);
            }
        }
        if !self.problems.iter().all(|p| p.code.0 != crate::place::CONFLICT) {
            // A cycle would make walks along UNDER endless: what is checked after this does not walk.
            self.bundle.parents.values_mut().for_each(BTreeSet::clear);
        }
    }

    fn declared(&mut self, file: usize, name: &Name) -> bool {
        let declared = self.bundle.parents.contains_key(&ddl::class(name));
        if !declared {
            let fault = Fault::name(format!("class `{}` is not declared", name.text), name.at)
                .help(format!("CREATE CLASSIFICATION {}", name.text));
            self.report(file, fault);
        }
        declared
    }

    /// The bundle's part on a dataset, with its columns where they are known.
    fn table_mut(&mut self, name: &DatasetName) -> &mut TablePolicy {
        let catalog = self.catalog;
        self.bundle.tables.entry(name.clone()).or_insert_with(|| {
            let bound = catalog.columns(name);
            let fields = bound.iter().flatten().enumerate().map(|(i, (field, ..))| (*field, i)).collect();
            TablePolicy { bound, fields, ..TablePolicy::default() }
        })
    }

    fn usable(&mut self, file: usize, name: &DatasetName, at: Place) -> bool {
        if name.is_system() {
            let fault = Fault::form(format!("`{name}` is governed by the built-in bundle of `system`"), at);
            self.report(file, fault);
        }
        !name.is_system()
    }

    /// The column's type where the dataset is known; `None` and a report where the column is not in it.
    fn column(&mut self, file: usize, table: &DatasetName, column: &Name) -> Option<Option<DataType>> {
        if !self.usable(file, table, column.at) {
            return None;
        }
        let Some(bound) = self.table_mut(table).bound.clone() else { return Some(None) };
        if let Some((_, _, data_type)) = bound.iter().find(|(_, name, _)| *name == column.text) {
            return Some(Some(data_type.clone()));
        }
        let fault = Fault::name(format!("column `{}` of `{table}` not found", column.text), column.at)
            .help(self.columns_of(table));
        self.report(file, fault);
        None
    }

    fn columns_of(&self, table: &DatasetName) -> String {
        let bound = self.bundle.tables.get(table).into_iter().flat_map(|t| t.bound.iter().flatten());
        format!("its columns are {}", bound.map(|(_, n, _)| format!("`{n}`")).collect::<Vec<_>>().join(", "))
    }

    fn declarations(&mut self, statements: Vec<(usize, Statement)>) {
        let mut reading = vec![];
        for (file, statement) in statements {
            let Statement { what, text, at } = statement;
            let row = match what {
                What::Classification { name, .. } => Some((name.text, "classification")),
                What::Tag { columns, classes } => {
                    self.tag(file, &columns, &classes);
                    None
                }
                What::RowSet { guard, name, table, expr, text, at } => {
                    let id = format!("{}/{}", table.name, name.text);
                    let reads: Vec<DatasetName> = expr.reads().into_iter().cloned().collect();
                    if !reads.is_empty() {
                        reading.push((file, guard, name.clone(), table.name.clone(), reads, at));
                    }
                    self.row_set(file, guard, &name, &table, expr, text);
                    Some((id, if guard { "guard" } else { "row_set" }))
                }
                What::MaskParameters { of, masks } => Some((self.mask_parameters(file, of, masks), "mask")),
                What::GroupFloor { least, table, counting } => {
                    self.group_floor(file, least, &table, counting);
                    Some((table.name.to_string(), "group_floor"))
                }
                What::Durability { durability, table } => {
                    if self.usable(file, &table.name, table.at) {
                        let policy = self.table_mut(&table.name);
                        if policy.durability.replace(durability).is_some() {
                            let message = format!("`{}` has two durabilities", table.name);
                            self.report(file, Fault::conflict(message, at));
                        }
                    }
                    Some((table.name.to_string(), "durability"))
                }
                What::Declassification(rule) => {
                    let id = rule.name.text.clone();
                    self.declassification(file, rule);
                    Some((id, "declassification"))
                }
            };
            self.bundle.rows.extend(row.map(|(id, kind)| PolicyRow { id, kind, text }));
        }
        self.reading(reading);
    }

    /// Refuses row sets that read a table which has row sets of its own: entitlements are read as they are, and row sets
    /// that read one another would have no end.
    fn reading(&mut self, sets: Vec<(usize, bool, Name, DatasetName, Vec<DatasetName>, Place)>) {
        let mut faults = vec![];
        for (file, guard, name, _, reads, at) in &sets {
            let what = if *guard { "guard" } else { "row set" };
            let having = |t: &TablePolicy| !t.row_sets.is_empty() || !t.guards.is_empty();
            if let Some(read) = reads.iter().find(|r| self.bundle.tables.get(*r).is_some_and(having)) {
                let message = format!("{what} `{}` reads `{read}`, which has row sets", name.text);
                let fault = Fault::conflict(message, *at)
                    .help("what a row set reads is read as it is, so it may have none itself");
                faults.push((*file, fault));
            }
        }
        faults.into_iter().for_each(|(file, fault)| self.report(file, fault));
        let unknown = |read: &DatasetName| self.bundle.tables.get(read).is_none_or(|t| t.bound.is_none());
        let waits = sets.iter().flat_map(|(_, _, _, _, reads, _)| reads).filter(|read| unknown(read));
        self.bundle.waits = waits.cloned().collect();
    }

    fn tag(&mut self, file: usize, columns: &[ColumnName], classes: &[Name]) {
        let classes: Vec<&Name> = classes.iter().filter(|c| self.declared(file, c)).collect();
        for ColumnName { table, column } in columns {
            if self.column(file, table, column).is_some() {
                let tags = self.table_mut(table).tags.entry(column.text.clone()).or_default();
                tags.extend(classes.iter().map(|c| ddl::class(c)));
            }
        }
    }

    fn row_set(&mut self, file: usize, guard: bool, name: &Name, table: &TableName, expr: RowExpr, text: String) {
        if !self.usable(file, &table.name, table.at) {
            return;
        }
        let known: Vec<bool> = expr.reads().into_iter().map(|read| self.table_mut(read).bound.is_some()).collect();
        let policy = self.table_mut(&table.name);
        if policy.row_sets.iter().chain(&policy.guards).any(|s| s.name == name.text) {
            let message = format!("`{}` has two row sets or guards named `{}`", table.name, name.text);
            let fault = Fault::conflict(message, name.at).help("give one of them another name");
            return self.report(file, fault);
        }
        let bound = policy.bound.clone().filter(|_| !known.contains(&false));
        let checked = bound.map(|bound| {
            let columns = |column: &str| {
                let (_, name, data_type) = bound.iter().find(|(_, n, _)| n == column)?;
                Some(Bound { name: name.clone(), data_type: data_type.clone() })
            };
            expr.compile(&columns, &|table, column| self.bundle.entitlement(table, column), None)
        });
        let policy = self.table_mut(&table.name);
        let set = RowSet { name: name.text.clone(), expr, text };
        if guard {
            policy.guards.push(set)
        } else {
            policy.row_sets.push(set)
        }
        if let Some(Err(mut fault)) = checked {
            if fault.help.is_none() {
                fault.help = Some(match fault.code {
                    NAME => self.columns_of(&table.name),
                    _ => "a literal is written as a value of the column that it meets; nothing is cast".into(),
                });
            }
            self.report(file, fault);
        }
    }

    fn mask_parameters(&mut self, file: usize, of: MaskTarget, masks: Vec<(Rung, MaskSpec, Place)>) -> String {
        let (id, target) = match of {
            MaskTarget::Class(class) => {
                let known = self.declared(file, &class);
                (class.text.clone(), known.then(|| self.bundle.class_masks.entry(ddl::class(&class)).or_default()))
            }
            MaskTarget::Column(ColumnName { table, column }) => {
                let id = format!("{table}.{}", column.text);
                let known = self.column(file, &table, &column).is_some();
                (id, known.then(|| self.table_mut(&table).masks.entry(column.text).or_default()))
            }
        };
        let Some(target) = target else { return id };
        let mut twice = vec![];
        for (rung, spec, at) in masks {
            if target.insert(rung, PlacedMask { spec, file, at }).is_some() {
                twice.push(Fault::conflict(format!("`{rung}` of `{id}` is given twice"), at));
            }
        }
        twice.into_iter().for_each(|fault| self.report(file, fault));
        id
    }

    fn group_floor(&mut self, file: usize, least: u64, table: &TableName, counting: Name) {
        if self.column(file, &table.name, &counting).is_none() {
            return;
        }
        if least < 2 {
            let fault = Fault::form("a group floor below 2 hides nothing", table.at);
            return self.report(file, fault);
        }
        if self.table_mut(&table.name).floor.replace((least, counting.text)).is_some() {
            self.report(file, Fault::conflict(format!("`{}` has two group floors", table.name), table.at));
        }
    }

    fn declassification(&mut self, file: usize, rule: ddl::Declassify) {
        let ddl::Declassify { name, target, removes, replaces_with, from, group } = rule;
        self.declared(file, &removes);
        if let Some(class) = &replaces_with {
            self.declared(file, class);
        }
        if self.bundle.declassifications.iter().any(|d| d.version.rule == name.text) {
            let message = format!("declassification `{}` is declared twice", name.text);
            return self.report(file, Fault::conflict(message, name.at));
        }
        self.bundle.declassifications.push(Declassification {
            version: RuleVersion { rule: name.text, epoch: 0 },
            target,
            removes: ddl::class(&removes),
            replaces_with: replaces_with.as_ref().map(ddl::class),
            from,
            group,
        });
    }

    /// Takes in the Cedar policies: ids are unique, and every entity that a policy names is declared.
    fn index(&mut self, policies: Vec<(usize, FilePolicy)>) {
        let mut seen: HashMap<PolicyId, usize> = HashMap::new();
        for (file, FilePolicy { id, policy, at }) in policies {
            if let Some(other) = seen.insert(id.clone(), file) {
                let other = self.bundle.files[other].0.clone();
                let fault = Fault::conflict(format!("policy id `{id}` is used twice"), at)
                    .help(format!("the other is in `{other}`; give one of them another `@id`"));
                self.report(file, fault);
            }
            for entity in policy.entity_literals() {
                let (kind, entity_id) = cedar::parts(&entity);
                if let Some(fault) = self.entity_fault(kind, entity_id, at) {
                    self.report(file, fault);
                }
                if kind == "Column"
                    && let Some((table, column)) = entity_id.rsplit_once('.')
                {
                    self.bundle.named_columns.entry(table.to_string()).or_default().insert(column.to_string());
                }
            }
            let kind = match policy.effect() {
                Effect::Permit => "permit",
                Effect::Forbid => "forbid",
            };
            self.bundle.rows.push(PolicyRow { id, kind, text: policy.to_string() });
            let at = self.bundle.policies.len();
            match policy.principal_constraint() {
                PrincipalConstraint::Any => self.bundle.any_principal.push(at),
                PrincipalConstraint::Is(kind) if kind.basename() == "Principal" => self.bundle.any_principal.push(at),
                // A role is no principal.
                PrincipalConstraint::Is(_) => {}
                PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => {
                    self.bundle.by_principal.entry(uid).or_default().push(at);
                }
                PrincipalConstraint::IsIn(kind, uid) => {
                    if kind.basename() == "Principal" {
                        self.bundle.by_principal.entry(uid).or_default().push(at);
                    }
                }
            }
            self.bundle.policies.push(indexed(policy));
        }
    }

    fn entity_fault(&mut self, kind: &str, id: &str, at: Place) -> Option<Fault> {
        let unknown = |what: &str| Fault::name(format!("{what} `{id}` is not declared"), at);
        match kind {
            "Class" if !self.bundle.parents.contains_key(&Class(id.into())) => {
                Some(unknown("class").help(format!("CREATE CLASSIFICATION {id}")))
            }
            "RowSet" | "Guard" => {
                let declared = id.rsplit_once('/').and_then(|(table, name)| {
                    let table = self.bundle.tables.get(&table.parse().ok()?)?;
                    let sets = if kind == "Guard" { &table.guards } else { &table.row_sets };
                    sets.iter().find(|s| s.name == name)
                });
                let (what, help) = match kind {
                    "Guard" => ("guard", "a guard is named `schema.table/name`, as declared by CREATE GUARD"),
                    _ => ("row set", "a row set is named `schema.table/name`, as declared by CREATE ROW SET"),
                };
                declared.is_none().then(|| unknown(what).help(help))
            }
            "Table" => match id.parse::<DatasetName>() {
                Ok(name) if name.is_system() => {
                    Some(Fault::form(format!("`{name}` is governed by the built-in bundle of `system`"), at))
                }
                Ok(name) => {
                    self.table_mut(&name);
                    None
                }
                Err(error) => Some(Fault::name(error.to_string(), at)),
            },
            "Column" => {
                let Some((table, column)) = id.rsplit_once('.') else {
                    return Some(Fault::name(format!("column `{id}` is not named `schema.table.column`"), at));
                };
                match table.parse::<DatasetName>() {
                    Ok(name) => {
                        let bound = self.table_mut(&name).bound.as_ref();
                        let missing = bound.is_some_and(|b| !b.iter().any(|(_, n, _)| n == column));
                        missing.then(|| Fault::name(format!("column `{column}` of `{name}` not found"), at))
                    }
                    Err(error) => Some(Fault::name(error.to_string(), at)),
                }
            }
            _ => None,
        }
    }

    /// Every mask that a known column can get fits its type, and no two classes of a column disagree.
    fn check_masks(&mut self) {
        let mut faults = vec![];
        for (name, table) in &self.bundle.tables {
            for (_, column, data_type) in table.bound.iter().flatten() {
                let classes = self.bundle.tags_of(name, column);
                for rung in [Rung::Redact, Rung::Token, Rung::Partial] {
                    match self.bundle.choice(name, column, &classes, rung) {
                        Choice::Nothing => {}
                        Choice::One(mask) if fit(&mask.spec, data_type).is_some() => {}
                        Choice::One(mask) => {
                            let message = format!("{}; `{name}.{column}` is {data_type}", describe(&mask.spec));
                            let help = format!(
                                "leave `{rung}` out, or give this column its own: CREATE MASK PARAMETERS FOR COLUMN {name}.{column}"
                            );
                            faults.push((mask.file, Fault::types(message, mask.at).help(help)));
                        }
                        Choice::Disagree(one, other) => {
                            let message = format!("the classes of `{name}.{column}` disagree on `{rung}`");
                            let help = format!("CREATE MASK PARAMETERS FOR COLUMN {name}.{column} ({rung} = …)");
                            let later =
                                if (one.file, one.at.start) < (other.file, other.at.start) { other } else { one };
                            faults.push((later.file, Fault::conflict(message, later.at).help(help)));
                        }
                    }
                }
            }
        }
        faults.into_iter().for_each(|(file, fault)| self.report(file, fault));
    }
}

fn indexed(policy: cedar_policy::Policy) -> Indexed {
    let named: Option<Vec<String>> = match policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(action) => Some(vec![action.id().unescaped().to_string()]),
        ActionConstraint::In(actions) => Some(actions.iter().map(|a| a.id().unescaped().to_string()).collect()),
    };
    let names = |action: &str| named.as_ref().is_none_or(|n| n.iter().any(|a| a == action));
    let columns = named.as_ref().is_none_or(|n| n.iter().any(|a| !cedar::TABLE_ACTIONS.contains(&a.as_str())));
    let permit = policy.effect() == Effect::Permit;
    let prefix = if permit { "up_to_" } else { "from_" };
    let rungs = named.iter().flatten().filter_map(|a| {
        let word = a.strip_prefix(prefix)?;
        cedar::RUNGS.into_iter().find(|r| r.word() == word)
    });
    Indexed {
        columns,
        rung: if permit { rungs.max().unwrap_or(Rung::None) } else { rungs.min().unwrap_or(Rung::Aggregate) },
        permit,
        actions: cedar::TABLE_ACTIONS.into_iter().filter(|a| names(a)).collect(),
        resource: policy.resource_constraint(),
        steady: cedar::steady(&policy),
        policy,
    }
}
