//! Those who ask: one request a connection, answered now or when its worker has ended.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
};

use super::{
    super::{
        Error, Result,
        failpoint::{Point, reached},
        protocol::{self, NOT_UNDERSTOOD, Reply, Request, Wire},
        rootfs,
        state::{Group, Stage, file_error, make_dir, remove_file, write_file},
    },
    Keeper, Next, PATIENCE, Purpose, pipes,
};

/// Bytes of a request.
const LONGEST: u64 = 1 << 20;

impl Keeper {
    pub(super) fn accept(&mut self) {
        if let Ok((client, _)) = self.listener.accept() {
            self.serve(client);
        }
    }

    pub(super) fn serve(&mut self, mut client: UnixStream) {
        self.expecting = None;
        let _ = client.set_read_timeout(Some(PATIENCE));
        let _ = client.set_write_timeout(Some(PATIENCE));
        let mut text = Vec::new();
        if (&client).take(LONGEST).read_to_end(&mut text).is_err() {
            return;
        }
        reached(Point::KeeperAsked);
        let result = match serde_json::from_slice(&text) {
            Ok(Request::Hello) => Ok(()),
            Ok(Request::Prepare { networks }) => {
                self.patrons.push(client);
                if networks {
                    // Failing, it is told to the first container that needs it.
                    let _ = self.hold_anchor();
                }
                return;
            }
            Ok(Request::Settle) if !self.workers.is_empty() => {
                self.settling.push((client, self.workers.iter().map(|worker| worker.pid).collect()));
                return;
            }
            Ok(Request::Settle) => Ok(()),
            Ok(Request::Start { id }) => return self.start(&id, client),
            Ok(Request::Stop { id }) => return self.stop(&id, client),
            Ok(Request::Ended { id }) => {
                self.awaiting.push((client, id));
                return;
            }
            Ok(Request::Exec { id, exec }) => return self.exec(&id, exec, client),
            Ok(Request::Terminal { id }) => {
                let held = self.containers.get(&id);
                let Some(master) = held.and_then(|held| held.terminal.as_ref()) else {
                    let gone = Error::Condition("the container has no terminal now".to_owned());
                    return answer(&mut client, &Err(gone));
                };
                let _ = protocol::send(client.as_fd(), &Reply::Done, &[master.as_fd()]);
                return;
            }
            Ok(Request::CloseInput { id }) => {
                if let Some(held) = self.containers.get_mut(&id)
                    && held.pipes.len() == pipes::COUNT
                {
                    held.pipes.remove(0);
                }
                Ok(())
            }
            Ok(Request::Forget { id }) => {
                // Who asks may be killed before it has removed anything: then the end must be known.
                if let Some(held) = self.containers.get_mut(&id)
                    && let Some(ending) = held.ending.take()
                {
                    held.state.phase = Stage::Exited { exit: ending.ended.exit };
                    let _ = held.place.write_state(&held.state);
                }
                self.containers.remove(&id);
                self.unwritten.remove(&id);
                Ok(())
            }
            Err(e) => Err(Error::Helper(format!("{NOT_UNDERSTOOD}: {e}"))),
        };
        answer(&mut client, &result);
    }

    pub(super) fn start(&mut self, id: &str, mut client: UnixStream) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
            worker.clients.push(client);
            return;
        }
        if let Some(held) = self.containers.get_mut(id) {
            if held.state.phase == Stage::Running && held.ending.is_none() {
                answer(&mut client, &Ok(()));
                return;
            }
            held.restart_at = None;
        }
        let unstop = self.group.place(id).and_then(|place| remove_file(&place.run.join("stopped")));
        if let Some(held) = self.containers.get_mut(id) {
            held.stopped = false;
        }
        if let Err(error) = unstop {
            answer(&mut client, &Err(error));
            return;
        }
        if let Err((error, clients)) = self.fork_worker(id, Purpose::Start, vec![client]) {
            for mut client in clients {
                answer(&mut client, &Err(Error::from(Wire::from(&error))));
            }
        }
    }

    pub(super) fn stop(&mut self, id: &str, mut client: UnixStream) {
        let result = self.group.place(id).and_then(|place| {
            make_dir(&place.run)?;
            write_file(&place.run.join("stopped"), b"", 0o600)
        });
        if let Some(held) = self.containers.get_mut(id) {
            held.stopped = true;
            if held.restart_at.take().is_some() {
                self.settle(id);
            } else if let Some(ending) = &mut held.ending {
                ending.next = Next::Stay;
            }
        }
        match self.workers.iter_mut().find(|worker| worker.id == id) {
            Some(worker) => worker.clients.push(client),
            None => answer(&mut client, &result),
        }
    }
}

pub(super) fn listen(group: &Group) -> Result<UnixListener> {
    let path = group.socket();
    remove_file(&path)?;
    let dir = rootfs::open_path(&group.run())?;
    // Through the descriptor: paths of sockets are short.
    let name = format!("/proc/self/fd/{}/keeper.sock", dir.as_raw_fd());
    let listener = UnixListener::bind(name).map_err(|e| file_error("cannot listen at", &path, e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(|e| file_error("cannot close to others", &path, e))?;
    Ok(listener)
}

pub(super) fn answer(client: &mut UnixStream, result: &Result<()>) {
    let reply = match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(Wire::from(error)),
    };
    let _ = client.write_all(&serde_json::to_vec(&reply).unwrap_or_default());
}
