//! COPY, ADD and WORKDIR as steps: what they depend on, and what they write.

use std::{io, path::Path};

use super::{
    BuildError,
    content::{Ownership, Source as Files},
    context::Context,
    copy::{self, Parents, PickError, Target, is_directory_name},
    dockerfile::{Copy, Mistake, Word},
    expand::Quotes,
    fetched::{self, Fetched},
    ignore::Matcher,
    mode::ModeChange,
    place::Place,
    solve::{At, Change, Inputs, Keep, Solver, Stage, View},
    steps::commit,
    tree::{Owner, Tree},
};
use crate::{image, runtime};

/// An instruction with its words read.
struct Wanted<'a> {
    copy: &'a Copy,
    sources: Vec<Named<'a>>,
    /// Name and content of files that stand in the Dockerfile.
    inline: Vec<(String, String)>,
    /// As written.
    destination: String,
    /// Absolute; a trailing `/` is kept.
    to: String,
    owner: Option<Owner>,
    mode: Option<ModeChange>,
    /// Patterns of `--exclude`, and what they match.
    excluded: Vec<String>,
    exclude: Matcher,
}

/// One source of an instruction.
struct Named<'a> {
    text: String,
    word: &'a Word,
    /// What an address gave.
    fetched: Option<Fetched>,
}

impl Named<'_> {
    /// What to look for in the files.
    fn pattern(&self) -> &str {
        match &self.fetched {
            Some(fetched) => fetched.name.as_deref().unwrap_or("."),
            None => &self.text,
        }
    }

    fn files<'f>(&'f self, files: &'f Files<'f>) -> Files<'f> {
        match &self.fetched {
            // What a repository or a server gives belongs to root.
            Some(fetched) => Files { ownership: Ownership::Root, ..stage_files(&fetched.tree) },
            None => *files,
        }
    }
}

/// The files that a `--from` or a mount names.
pub enum Opened<'a> {
    Context(&'a Context),
    View(View),
}

impl Opened<'_> {
    pub fn files(&self) -> Files<'_> {
        match self {
            Self::Context(context) => context.source(),
            Self::View(view) => stage_files(&view.tree),
        }
    }
}

/// The context when `from` is `None`.
pub fn opened<'a>(solver: &'a Solver<'_>, from: Option<&str>) -> Result<Opened<'a>, BuildError> {
    if let Some(context) = solver.context_of(from) {
        return Ok(Opened::Context(context));
    }
    let source = solver.graph.source(from.unwrap_or_default());
    Ok(Opened::View(solver.view(&solver.source(&source)?.0)?))
}

pub fn copy(solver: &Solver<'_>, stage: &mut Stage, at: At<'_>, copy: &Copy) -> Result<(), BuildError> {
    let wanted = read(solver, stage, at, copy)?;
    let mut inputs = Inputs { definition: definition(&wanted), parentless: copy.link, ..Inputs::default() };
    let from = copy.from.as_ref().map(|word| word.text.as_str());
    let made = match solver.context_of(from) {
        Some(context) => {
            let source = context.source();
            let before = digest(solver, at, &wanted, &source)?;
            inputs.fast.push(before.to_vec());
            solver.layer(
                stage,
                at,
                &inputs,
                || Ok(vec![before]),
                |stage| {
                    let view = write(solver, stage, at, &wanted, &source)?;
                    // Only what stayed the same all the time was surely copied as it was digested.
                    let same = digest(solver, at, &wanted, &source)? == before;
                    if !same {
                        solver.warn(
                            at,
                            "a file changed while it was copied; the step will be carried out again",
                        );
                    }
                    let keep = if same { Keep::Yes } else { Keep::No };
                    Ok(Change { written: Some(view.scratch), keep })
                },
            )?
        }
        None => {
            let (layers, key) = solver.source(&solver.graph.source(from.unwrap_or_default()))?;
            inputs.fast.push(key.bytes().to_vec());
            // Nobody has looked yet at what they match there.
            inputs.fast.extend(wanted.sources.iter().map(|source| source.text.clone().into_bytes()));
            // Mounted only when the fast key is not known.
            let view = std::cell::OnceCell::new();
            let open = || -> Result<&View, BuildError> {
                if view.get().is_none() {
                    let _ = view.set(solver.view(&layers)?);
                }
                view.get().ok_or(BuildError::Cancelled)
            };
            let slow = || Ok(vec![digest(solver, at, &wanted, &stage_files(&open()?.tree))?]);
            solver.layer(stage, at, &inputs, slow, |stage| {
                let written = write(solver, stage, at, &wanted, &stage_files(&open()?.tree))?;
                Ok(Change { written: Some(written.scratch), keep: Keep::Yes })
            })?
        }
    };
    commit(stage, &created_by(&wanted), made);
    Ok(())
}

/// WORKDIR: made when it is missing, as the user's that USER names. One that the image does not know owns
/// nothing: then it is root's, as BuildKit has it.
pub fn make_directory(
    solver: &Solver<'_>,
    stage: &Stage,
    at: At<'_>,
    path: &str,
) -> Result<Change, BuildError> {
    let owner = match stage.document.config.user.as_str() {
        "" => Owner::default(),
        user => owner_named(solver, stage, user)?.unwrap_or_default(),
    };
    let view = solver.view(&stage.layers)?;
    let made = view.tree.make_dirs(Path::new(path), owner).map_err(|error| {
        failed(solver, at, &format!("cannot make directory `{path}` in the image"), &error)
    })?;
    Ok(Change { written: made.then_some(view.scratch), keep: Keep::Yes })
}

pub fn stage_files(tree: &Tree) -> Files<'_> {
    Files { tree, ignore: None, memo: None, ownership: Ownership::Kept }
}

fn read<'a>(
    solver: &Solver<'_>,
    stage: &Stage,
    at: At<'_>,
    copy: &'a Copy,
) -> Result<Wanted<'a>, BuildError> {
    let mut sources = Vec::new();
    for word in &copy.sources {
        let text = solver.text(stage, at, word)?;
        let fetched = if copy.add { fetch(solver, stage, at, copy, &text, word)? } else { None };
        sources.push(Named { text, word, fetched });
    }
    let remote = sources.iter().any(|source| source.fetched.is_some());
    if let Some(word) = copy.checksum.as_ref().filter(|_| !remote) {
        let mistake = Mistake::new(word.span, "checksum can't be specified for non-HTTP(S) or Git sources");
        return Err(solver.wrong(at, mistake.help("leave it out: files of the context have no checksum")));
    }
    let mut inline = Vec::new();
    for heredoc in &copy.inline {
        let word = Word { text: heredoc.data(), span: heredoc.span };
        let data =
            if heredoc.expand { solver.expanded(stage, at, &word, Quotes::Kept)?.text } else { word.text };
        inline.push((heredoc.name.clone(), data));
    }
    let destination = solver.text(stage, at, &copy.to)?;
    let excluded =
        copy.exclude.iter().map(|word| solver.text(stage, at, word)).collect::<Result<Vec<_>, _>>()?;
    let exclude = Matcher::from_patterns(excluded.iter().map(String::as_str)).map_err(|bad| {
        solver.wrong(at, Mistake::new(at.step.instruction.span, format!("--exclude: {bad}")))
    })?;
    let mode = match &copy.chmod {
        None => None,
        Some(word) => {
            let text = solver.text(stage, at, word)?;
            let read = ModeChange::parse(&text);
            Some(read.map_err(|message| solver.wrong(at, Mistake::new(word.span, message)))?)
        }
    };
    let owner = copy.chown.as_ref().map(|word| owner(solver, stage, at, word)).transpose()?;
    let full = stage.document.directory(&destination);
    let to = if is_directory_name(&destination) && full != "/" { format!("{full}/") } else { full };
    Ok(Wanted { copy, sources, inline, destination, to, owner, mode, excluded, exclude })
}

/// What ADD finds at an address; `None` for a path of the context.
fn fetch(
    solver: &Solver<'_>,
    stage: &Stage,
    at: At<'_>,
    copy: &Copy,
    text: &str,
    word: &Word,
) -> Result<Option<Fetched>, BuildError> {
    let wrong = |message: String| solver.wrong(at, Mistake::new(word.span, message));
    let Some(place) = Place::remote(text).map_err(wrong)? else { return Ok(None) };
    let checksum = copy.checksum.as_ref().map(|word| solver.text(stage, at, word)).transpose()?;
    let fetched = match place {
        Place::Git(mut git) => {
            git.commit = checksum.or(git.commit);
            fetched::repository(solver.store, &git, copy.keep_git_dir)
        }
        Place::Http(url) => {
            let digest = match checksum.as_deref().map(|text| (text, text.strip_prefix("sha256:"))) {
                Some((_, Some(hex))) if hex.len() == 64 => Some(hex.to_ascii_lowercase()),
                Some((text, _)) => {
                    return Err(wrong(format!("`{text}` is no checksum: write sha256: and 64 hex digits")));
                }
                None => None,
            };
            fetched::file(solver.store, &solver.cache, &solver.wait, &url, digest.as_deref())
        }
        _ => return Ok(None),
    };
    fetched.map(Some).map_err(wrong)
}

fn owner(solver: &Solver<'_>, stage: &Stage, at: At<'_>, word: &Word) -> Result<Owner, BuildError> {
    let text = solver.text(stage, at, word)?;
    owner_named(solver, stage, &text)?
        .map_err(|error| solver.wrong(at, Mistake::new(word.span, format!("--chown: {error}"))))
}

/// `user[:group]`, looked up in the image. A number alone is also the group.
fn owner_named(
    solver: &Solver<'_>,
    stage: &Stage,
    text: &str,
) -> Result<Result<Owner, runtime::Error>, BuildError> {
    let is_number =
        |text: &str| text.parse::<u32>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wanted = if is_number(text) { format!("{text}:{text}") } else { text.to_owned() };
    let view = solver.view(&stage.layers)?;
    let found = runtime::users::resolve(view.tree.fd(), &wanted, &[]);
    Ok(found.map(|found| Owner { uid: found.uid, gid: found.gid }))
}

/// Everything that is written in the instruction, without the content of what it names.
fn definition(wanted: &Wanted<'_>) -> Vec<Vec<u8>> {
    let copy = wanted.copy;
    let mut parts: Vec<Vec<u8>> = vec![
        if copy.add { b"add".to_vec() } else { b"copy".to_vec() },
        format!("{:?} {:?} {} {} {:?}", wanted.owner, wanted.mode, copy.link, copy.parents, copy.unpack)
            .into_bytes(),
        wanted.to.clone().into_bytes(),
    ];
    for pattern in &wanted.excluded {
        parts.push([b"exclude ", pattern.as_bytes()].concat());
    }
    for source in &wanted.sources {
        // The names of what it matches are part of the content.
        let parents = || [b"parents ", source.text.as_bytes()].concat();
        parts.push(if copy.parents { parents() } else { b"source".to_vec() });
    }
    for (name, data) in &wanted.inline {
        parts.push([b"inline ", name.as_bytes()].concat());
        parts.push(data.clone().into_bytes());
    }
    parts
}

fn digest(
    solver: &Solver<'_>,
    at: At<'_>,
    wanted: &Wanted<'_>,
    files: &Files<'_>,
) -> Result<[u8; 32], BuildError> {
    let mut all = Vec::new();
    for source in &wanted.sources {
        let files = source.files(files);
        let picked = pick(solver, at, &files, source.pattern(), source.word)?;
        let unread = |error: io::Error| failed(solver, at, &format!("cannot read `{}`", source.text), &error);
        all.extend(files.digest(&picked, &wanted.exclude).map_err(unread)?);
        if wanted.copy.parents {
            all.extend(parents(&files, &picked).map_err(unread)?);
        }
    }
    Ok(super::cache::Key::of([all.as_slice()]).digest())
}

/// What `--parents` takes of the directories that lead to what was picked.
fn parents(files: &Files<'_>, picked: &[super::content::Picked]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for one in picked {
        for path in one.name.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            let Some(stat) = files.tree.stat(&files.tree.resolve(path)?)? else { continue };
            let owner = if files.ownership == Ownership::Root { (0, 0) } else { (stat.st_uid, stat.st_gid) };
            all.extend([stat.st_mode, owner.0, owner.1].into_iter().flat_map(u32::to_le_bytes));
        }
    }
    Ok(all)
}

fn pick(
    solver: &Solver<'_>,
    at: At<'_>,
    files: &Files<'_>,
    pattern: &str,
    word: &Word,
) -> Result<Vec<super::content::Picked>, BuildError> {
    copy::pick(files, pattern).map_err(|error| {
        let mistake = Mistake::new(word.span, error.to_string());
        match error {
            PickError::NotFound { help: Some(help), .. } => solver.wrong(at, mistake.help(help)),
            PickError::Read { ref source, .. } => {
                solver.wrong(at, Mistake::new(word.span, format!("{}: {source}", mistake.message)))
            }
            _ => solver.wrong(at, mistake),
        }
    })
}

/// Carries the copy out above the layers of the stage.
fn write(
    solver: &Solver<'_>,
    stage: &Stage,
    at: At<'_>,
    wanted: &Wanted<'_>,
    files: &Files<'_>,
) -> Result<View, BuildError> {
    let below = if wanted.copy.link { &[][..] } else { &stage.layers };
    let view = solver.view(below)?;
    let target =
        Target { tree: &view.tree, path: &wanted.to, owner: wanted.owner, mode: wanted.mode.as_ref() };
    let mut all = Vec::new();
    for source in &wanted.sources {
        let picked = pick(solver, at, &source.files(files), source.pattern(), source.word)?;
        if picked.is_empty() {
            solver.warn(at, &format!("`{}` matches nothing", source.text));
        }
        all.extend(picked.into_iter().map(|one| (one, source)));
    }
    refuse_heap(solver, at, wanted, files, &all, &target)?;
    for (one, source) in all {
        solver.check()?;
        if unpacked(solver, at, wanted, files, &one, source, &target)? {
            continue;
        }
        let parents = if wanted.copy.parents { Parents::kept(source.pattern()) } else { Parents::Dropped };
        copy::copy(&source.files(files), &[one], &wanted.exclude, parents, &target)
            .map_err(|error| solver.wrong(at, Mistake::new(source.word.span, error.to_string())))?;
    }
    for (name, data) in &wanted.inline {
        copy::write(name, data.as_bytes(), &target)
            .map_err(|error| failed(solver, at, &format!("cannot write `{name}`"), &error))?;
    }
    Ok(view)
}

/// Several files at one name would leave only the last one.
fn refuse_heap(
    solver: &Solver<'_>,
    at: At<'_>,
    wanted: &Wanted<'_>,
    files: &Files<'_>,
    picked: &[(super::content::Picked, &Named<'_>)],
    target: &Target<'_>,
) -> Result<(), BuildError> {
    let read = |error: io::Error| failed(solver, at, "cannot read the sources", &error);
    let is_dir = |stat: Option<rustix::fs::Stat>| {
        stat.is_some_and(|stat| super::tree::kind(&stat) == rustix::fs::FileType::Directory)
    };
    let mut count = wanted.inline.len();
    for (one, source) in picked {
        count += usize::from(!is_dir(source.files(files).has(&one.path).map_err(read)?));
    }
    if count < 2 || wanted.copy.parents || is_directory_name(&wanted.to) {
        return Ok(());
    }
    let there =
        target.tree.resolve(Path::new(&wanted.to)).and_then(|path| target.tree.stat(&path)).map_err(read)?;
    if is_dir(there) {
        return Ok(());
    }
    let keyword = if wanted.copy.add { "ADD" } else { "COPY" };
    let message = format!(
        "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
    );
    let mistake = Mistake::new(wanted.copy.to.span, message);
    Err(solver.wrong(at, mistake.help(format!("write `{}/`", wanted.destination))))
}

/// ADD of an archive: what it holds goes to the destination. False for what is none.
fn unpacked(
    solver: &Solver<'_>,
    at: At<'_>,
    wanted: &Wanted<'_>,
    files: &Files<'_>,
    one: &super::content::Picked,
    source: &Named<'_>,
    target: &Target<'_>,
) -> Result<bool, BuildError> {
    let files = source.files(files);
    // An archive of a server is extracted only when that is said.
    let unpack = wanted.copy.unpack.or_else(|| source.fetched.is_some().then_some(false));
    let is_file = |stat: Option<rustix::fs::Stat>| {
        stat.is_some_and(|stat| super::tree::kind(&stat) == rustix::fs::FileType::RegularFile)
    };
    let read =
        |error: io::Error| failed(solver, at, &format!("cannot read `{}`", one.name.display()), &error);
    if !wanted.copy.add || unpack == Some(false) || !is_file(files.has(&one.path).map_err(read)?) {
        return Ok(false);
    }
    let archive = files.tree.file(&one.path).map_err(read)?;
    match image::archive_kind(&archive).map_err(read)? {
        image::ArchiveKind::Tar => {}
        image::ArchiveKind::File if unpack == Some(true) => {
            let message = format!("`{}` is no tar archive", one.name.display());
            return Err(solver.wrong(at, Mistake::new(at.step.instruction.span, message)));
        }
        image::ArchiveKind::File => return Ok(false),
    }
    let scratch = solver.store.scratch()?;
    image::extract(archive, scratch.path()).map_err(|error| {
        solver.wrong(
            at,
            Mistake::new(
                at.step.instruction.span,
                format!("cannot extract `{}`: {error}", one.name.display()),
            ),
        )
    })?;
    let tree = Tree::open(&scratch.path().join("fs")).map_err(read)?;
    let path = format!("{}/", target.path.trim_end_matches('/'));
    // --chown and --chmod are about the directory: what an archive holds has owners and modes of its own.
    let owner = target.owner.unwrap_or_default();
    let target = Target { tree: target.tree, path: &path, owner: None, mode: None };
    target
        .tree
        .make_dirs(Path::new(&path), owner)
        .and_then(|_| {
            let all = super::content::Picked { name: ".".into(), path: "".into() };
            copy::copy(&stage_files(&tree), &[all], &Matcher::default(), Parents::Dropped, &target)
        })
        .map_err(|error| failed(solver, at, &format!("cannot extract `{}`", one.name.display()), &error))?;
    Ok(true)
}

fn failed(solver: &Solver<'_>, at: At<'_>, what: &str, error: &io::Error) -> BuildError {
    solver.wrong(at, Mistake::new(at.step.instruction.span, format!("{what}: {error}")))
}

/// As it stands in the history: `COPY --chown=web src dst # buildkit`.
fn created_by(wanted: &Wanted<'_>) -> String {
    let copy = wanted.copy;
    let mut words = vec![if copy.add { "ADD".to_owned() } else { "COPY".to_owned() }];
    words.extend(copy.parents.then(|| "--parents".to_owned()));
    words.extend(copy.chown.iter().map(|word| format!("--chown={}", word.text)));
    words.extend(copy.chmod.iter().map(|word| format!("--chmod={}", word.text)));
    words.extend(wanted.sources.iter().map(|source| source.text.clone()));
    words.extend(wanted.inline.iter().map(|(name, _)| format!("<<{name}")));
    words.push(wanted.destination.clone());
    words.push("# buildkit".into());
    words.join(" ")
}

/// For RUN mounts: the digest of a path of the context or of a stage, and a copy of it.
pub fn mounted_digest(files: &Files<'_>, path: &str) -> Result<[u8; 32], PickError> {
    let picked = copy::pick(files, path)?;
    let read = |source| PickError::Read { path: path.to_owned(), source };
    files.digest(&picked, &Matcher::default()).map_err(read)
}

/// Copies `path` to `name` in the directory of `target`.
pub fn mounted_copy(files: &Files<'_>, path: &str, target: &Tree, name: &str) -> Result<(), PickError> {
    let picked = copy::pick(files, path)?;
    let target = Target { tree: target, path: name, owner: None, mode: None };
    picked
        .iter()
        .try_for_each(|one| copy::mirror(files, one, &target))
        .map_err(|source| PickError::Read { path: path.to_owned(), source })
}
