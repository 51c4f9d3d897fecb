//! A project folder: definitions in SQL files, policies beside them.
//!
//! What holds here: every file has passed the gate; one definition a name; features are in an order in which each
//! comes after what it reads.

use crate::relabel::Names;
use custody_catalog::Catalog;
use custody_dialect::{
    Clauses, Definition, GatedQuery, Located, PlainViewDef, SourceDef, Statement, TrainingDef, ViewDef, order,
};
use custody_model::{DatasetName, Problem, SourceText};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A project folder, read.
pub struct Project {
    /// The folder.
    pub root: PathBuf,
    /// Texts of the definitions, by file.
    pub files: Vec<SourceText>,
    /// Sources by name.
    pub sources: BTreeMap<DatasetName, Declared<SourceDef>>,
    /// Feature views by name.
    pub features: BTreeMap<DatasetName, Declared<ViewDef>>,
    /// Plain views by name.
    pub views: BTreeMap<DatasetName, Declared<PlainViewDef>>,
    /// Training sets by name.
    pub training: BTreeMap<DatasetName, Declared<TrainingDef>>,
    /// Names of the feature views and plain views, each after what it reads.
    pub order: Vec<DatasetName>,
    /// Policy files, by path below the project.
    pub policies: Vec<(String, Vec<u8>)>,
    /// Tests of policies: `policies/tests/*.txt`.
    pub policy_tests: Vec<SourceText>,
}

/// A definition with where it came from.
#[derive(Clone, Debug)]
pub struct Declared<T> {
    /// What it says.
    pub def: T,
    /// Its own text.
    pub text: String,
    /// Index into [`Project::files`].
    pub file: usize,
}

impl Project {
    /// Reads `sources/`, `features/`, `views/`, `training/` and `policies/`. Reports every refusal at once.
    pub fn load(root: &Path) -> Result<Self, Problem> {
        let mut project = Self {
            root: root.to_path_buf(),
            files: vec![],
            sources: BTreeMap::new(),
            features: BTreeMap::new(),
            views: BTreeMap::new(),
            training: BTreeMap::new(),
            order: vec![],
            policies: vec![],
            policy_tests: vec![],
        };
        let mut problems = vec![];
        let mut parsed = vec![];
        for folder in ["sources", "features", "views", "training"] {
            for path in files_in(&root.join(folder), "sql")? {
                let text = fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                let text = SourceText::file(name, path, text);
                match custody_dialect::parse(&text) {
                    Ok(statements) => parsed.extend(statements.into_iter().map(|s| (project.files.len(), s))),
                    Err(refusals) => problems.extend(refusals.problems().iter().cloned()),
                }
                project.files.push(text);
            }
        }
        for (file, statement) in &parsed {
            if let Err(problem) = project.take(*file, statement.clone()) {
                problems.push(problem);
            }
        }
        problems.extend(project.renames());
        if problems.is_empty() {
            match project.arrange(&parsed) {
                Ok(order) => project.order = order,
                Err(problem) => problems.push(problem),
            }
        }
        for extension in ["cedar", "sql"] {
            for path in files_in(&root.join("policies"), extension)? {
                let bytes = fs::read(&path).map_err(|e| unreadable(&path, &e))?;
                project.policies.push((path.strip_prefix(root).unwrap_or(&path).display().to_string(), bytes));
            }
        }
        project.policies.sort();
        for path in files_in(&root.join("policies/tests"), "txt")? {
            let text = fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            project.policy_tests.push(SourceText::file(name, path, text));
        }
        if let Some(mut first) = pop_first(&mut problems) {
            first.related.extend(problems);
            return Err(first);
        }
        Ok(project)
    }

    /// The text a definition's places point into.
    pub fn text(&self, file: usize) -> Option<&SourceText> {
        self.files.get(file)
    }

    /// Files named in problems, by name.
    pub fn text_named(&self, name: &str) -> Option<&SourceText> {
        self.files.iter().find(|f| f.name == name)
    }

    fn take(&mut self, file: usize, statement: Located<Statement>) -> Result<(), Problem> {
        let Located { value, text, start, end } = statement;
        let words = value.words();
        let place = |problem: Problem, files: &[SourceText]| {
            let named = files.get(file).map(|f| f.name.clone()).unwrap_or_default();
            problem.label(custody_model::Label { start, end, text: "here".into() }).file(named)
        };
        let Some(name) = value.defines().map(|n| n.value.clone()) else {
            let problem = Problem::new(1110, format!("statement `{words}` does not define anything")).help(
                "project files hold CREATE SOURCE, CREATE FEATURE VIEW, CREATE VIEW and CREATE TRAINING SET; \
                 queries go to `custody sql`",
            );
            return Err(place(problem, &self.files));
        };
        let defined = [
            self.sources.contains_key(&name),
            self.features.contains_key(&name),
            self.views.contains_key(&name),
            self.training.contains_key(&name),
        ];
        if defined.contains(&true) {
            return Err(place(Problem::new(1111, format!("`{name}` is defined twice")), &self.files));
        }
        let wanted = match &value {
            Statement::FeatureView(_) => Some("features"),
            Statement::TrainingSet(_) => Some("training"),
            _ => None,
        };
        if let Some(schema) = wanted
            && name.schema() != schema
        {
            let problem =
                Problem::new(1112, format!("a feature view lives in schema `{schema}`, not `{}`", name.schema()))
                    .help(format!("name it `{schema}.{}`", name.name()));
            return Err(place(problem, &self.files));
        }
        if wanted.is_none()
            && matches!(
                name.schema(),
                "features" | "training" | "draft" | "quarantine" | "system" | "information_schema"
            )
        {
            let problem = Problem::new(1112, format!("schema `{}` is reserved", name.schema()));
            return Err(place(problem, &self.files));
        }
        match value {
            Statement::Source(def) => {
                self.sources.insert(name, Declared { def: *def, text, file });
            }
            Statement::FeatureView(def) => {
                self.features.insert(name, Declared { def: *def, text, file });
            }
            Statement::TrainingSet(def) => {
                self.training.insert(name, Declared { def: *def, text, file });
            }
            Statement::View(def) => {
                self.views.insert(name, Declared { def: *def, text, file });
            }
            Statement::Query(_) | Statement::Explain(..) | Statement::Prepare(_) | Statement::Execute(_) => {}
        }
        Ok(())
    }

    /// The datasets that it renames, by their new names.
    pub(crate) fn coming(&self, catalog: &Catalog) -> Names {
        let sources = self.sources.iter().map(|(name, d)| (name, &d.def.clauses));
        let features = self.features.iter().map(|(name, d)| (name, &d.def.clauses));
        let old = |clauses: &Clauses| catalog.dataset(&clauses.renamed_from.as_ref()?.value).map(|d| d.id());
        sources.chain(features).filter_map(|(name, clauses)| Some((old(clauses)?, name.clone()))).collect()
    }

    /// One dataset cannot be two: what a definition is renamed from must not be defined as well.
    fn renames(&self) -> Vec<Problem> {
        let sources = self.sources.values().map(|d| (&d.def.clauses, d.file));
        let features = self.features.values().map(|d| (&d.def.clauses, d.file));
        let mut taken = BTreeSet::new();
        let mut problems = vec![];
        for (clauses, file) in sources.chain(features) {
            let Some(old) = &clauses.renamed_from else { continue };
            let defined = self.sources.contains_key(&old.value) || self.features.contains_key(&old.value);
            let problem = match (defined, taken.insert(&old.value)) {
                (true, _) => format!("`{}` is still defined", old.value),
                (false, false) => format!("`{}` is renamed twice", old.value),
                (false, true) => continue,
            };
            let problem = Problem::new(1128, problem).help("leave `RENAMED FROM` out of what is a new definition");
            let problem = problem.label(old.place.label("here"));
            problems.push(problem.file(self.text(file).map(|t| t.name.clone()).unwrap_or_default()));
        }
        problems
    }

    fn arrange(&self, parsed: &[(usize, Located<Statement>)]) -> Result<Vec<DatasetName>, Problem> {
        let definitions: Vec<Definition<'_>> = parsed
            .iter()
            .filter_map(|(file, statement)| Some(Definition { source: self.files.get(*file)?, statement }))
            .collect();
        let order = order(&definitions).map_err(crate::refused)?;
        Ok(order
            .into_iter()
            .filter_map(|i| definitions.get(i)?.statement.value.defines().map(|n| n.value.clone()))
            .filter(|name| self.features.contains_key(name) || self.views.contains_key(name))
            .collect())
    }

    /// The names a query reads, without repeats.
    pub(crate) fn reads(query: &GatedQuery) -> BTreeSet<DatasetName> {
        query.references().iter().map(|r| r.name.clone()).collect()
    }

    /// What a feature view or plain view of the project reads.
    pub(crate) fn read_by(&self, name: &DatasetName) -> BTreeSet<DatasetName> {
        let feature = self.features.get(name).map(|d| &d.def.query);
        feature.or_else(|| self.views.get(name).map(|d| &d.def.query)).map(Self::reads).unwrap_or_default()
    }

    /// The feature views and plain views that a selection names, in order. `x`, `+x` with what it reads, `x+` with what
    /// reads it. Plain views that one of them reads are among them.
    pub fn select(&self, selection: &[String]) -> Result<Vec<DatasetName>, Problem> {
        if selection.is_empty() {
            return Ok(self.order.clone());
        }
        let mut chosen = BTreeSet::new();
        for item in selection {
            let bare = item.trim_start_matches('+').trim_end_matches('+');
            let qualified = if bare.contains('.') { bare.to_string() } else { format!("features.{bare}") };
            let name: DatasetName =
                qualified.parse().map_err(|e: custody_model::BadName| Problem::new(2101, e.to_string()))?;
            if !self.order.contains(&name) {
                return Err(Problem::new(6004, format!("no feature view `{name}` in this project")).help(format!(
                    "there are {}",
                    self.order.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
                )));
            }
            if item.starts_with('+') {
                chosen.extend(self.upstream(&name, &|_| true));
            }
            if item.ends_with('+') {
                let reads = |other: &&DatasetName| self.upstream(other, &|_| true).contains(&name);
                chosen.extend(self.order.iter().filter(reads).cloned());
            }
            chosen.insert(name);
        }
        let plain = |name: &DatasetName| self.views.contains_key(name);
        let needed: Vec<_> = chosen.iter().flat_map(|name| self.upstream(name, &plain)).collect();
        chosen.extend(needed);
        Ok(self.order.iter().filter(|n| chosen.contains(n)).cloned().collect())
    }

    /// What a view reads, and what that reads, as far as `follow` goes: views of the project alone.
    pub(crate) fn upstream(&self, name: &DatasetName, follow: &dyn Fn(&DatasetName) -> bool) -> BTreeSet<DatasetName> {
        let (mut found, mut next) = (BTreeSet::new(), vec![name.clone()]);
        while let Some(name) = next.pop() {
            let mine = self.read_by(&name).into_iter().filter(|n| self.order.contains(n) && follow(n));
            next.extend(mine.filter(|n| found.insert(n.clone())));
        }
        found
    }
}

fn pop_first(problems: &mut Vec<Problem>) -> Option<Problem> {
    if problems.is_empty() { None } else { Some(problems.remove(0)) }
}

fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Problem> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(unreadable(folder, &e)),
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(|e| unreadable(folder, &e))?.path();
        if path.extension().is_some_and(|x| x == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(1304, format!("`{}` cannot be read: {error}", path.display()))
}
