//! `custody init`: a project folder with a warehouse, a starter or demo bundle in force.

use super::{Done, Failed};
use crate::{arguments::InitArgs, context::Context, demo};
use custody_model::{Problem, WriterId};
use std::{fs, path::Path};

const STARTER_TOML: &str = include_str!("../../starter/custody.toml");
const STARTER_CEDAR: &str = include_str!("../../starter/engineer.cedar");
const STARTER_TESTS: &str = include_str!("../../starter/engineer.txt");

pub(crate) async fn run(args: &InitArgs, quiet: bool) -> Result<Done, Failed> {
    let name = args.dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
    if WriterId::new(&name.to_lowercase().chars().take(16).collect::<String>()).is_none() {
        return Err(Problem::new(2010, format!("`{name}` is no name for a project"))
            .help("letters, digits, `-` and `_`")
            .into());
    }
    if args.dir.join("custody.toml").exists() {
        return Err(Problem::new(2011, format!("there is a project in `{}` already", args.dir.display())).into());
    }
    let wrote = match args.demo.as_deref() {
        Some(_) => write_demo(&args.dir, args.seed, args.divide, quiet),
        None => write_starter(&args.dir, &name),
    };
    wrote.map_err(|e| Problem::new(7202, format!("`{}` cannot be written: {e}", args.dir.display())))?;
    let root =
        fs::canonicalize(&args.dir).map_err(|e| Problem::new(7202, format!("`{name}` cannot be opened: {e}")))?;
    open_for_business(&Context::at(root, None, None)?).await?;
    if !quiet {
        eprintln!("made {}", args.dir.display());
        eprintln!("next: cd {} && custody publish -m 'first version'", args.dir.display());
    }
    Ok(Done::Well)
}

/// Makes the warehouse and activates the project's policies.
pub(crate) async fn open_for_business(context: &Context) -> Result<(), Failed> {
    let engine = context.create().await?;
    let session = engine.session(context.subject()?);
    let project = context.project()?;
    let applied = session.apply_policies(&project, "first policies", false).await;
    context.close(&engine).await?;
    applied.map_err(|p| Failed::with(p, project.files))?;
    Ok(())
}

fn write_starter(folder: &Path, name: &str) -> std::io::Result<()> {
    for sub in ["sources", "features", "views", "policies/tests", "tests", "raw"] {
        fs::create_dir_all(folder.join(sub))?;
    }
    fs::write(folder.join("custody.toml"), STARTER_TOML.replace("NAME", name))?;
    fs::write(folder.join("policies/engineer.cedar"), STARTER_CEDAR)?;
    fs::write(folder.join("policies/tests/engineer.txt"), STARTER_TESTS)?;
    fs::write(folder.join(".gitignore"), "/warehouse/\n")
}

fn write_demo(folder: &Path, seed: u64, divide: u64, quiet: bool) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    demo::write_project(folder)?;
    let made = demo::generate(&folder.join("warehouse").join("raw"), seed, demo::Size::divided(divide))?;
    if !quiet {
        for (table, rows) in made {
            eprintln!("generated {table:<10} {rows:>8} synthetic rows");
        }
    }
    Ok(())
}
