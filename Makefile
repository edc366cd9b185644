# What a person types here. `make` alone lists it.
#
#   make demo        builds ficelle and starts the guestbook with it
#   make clean-demo  takes the guestbook down, with its entries
#   make test        every test, on a fresh machine too
#   make test-vm     ficelle in a QEMU machine: cgroups of version 2, with and without systemd (some minutes)
#   make test-kills  every process of ours killed at every moment of every step, and at random, and 3,000,000 lines
#                    through all of it (half an hour)
#   make lint        formatting and clippy
#   make bench       ficelle beside docker, docker compose and BuildKit; reading files, phase by phase
#   make compare     builds of ficelle and of a real BuildKit, path by path; containers of ficelle and of a real
#                    Docker Engine, attribute by attribute, and both on one host (20 minutes)
#   make fuzz        hostile input, ten minutes for each of its 11 readers (TIME=seconds)
#   make images      the images of the samples, from Debian's packages
#   make setup       what building and testing needs, installed

export PATH := $(CURDIR)/.cache/tools/bin:$(PATH)

.PHONY: help setup images build demo capture clean-demo test test-vm test-kills lint bench compare fuzz

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup

images: setup
	@scripts/base-images

build: setup
	cargo build --release --locked

demo: build
	@scripts/base-images postgres redis python
	@scripts/demo

# The terminal capture of README.md, from a real run.
capture: build
	@scripts/base-images postgres redis python
	@scripts/capture

clean-demo:
	@scripts/demo down

# The tests of the runtime need root; the compiler does not.
test: images
	cargo test --locked --config 'target."cfg(unix)".runner = "scripts/as-root"'

# Apart from `make test`: it takes packages of its own, and minutes.
test-vm: build
	scripts/base-images busybox
	scripts/setup qemu-system-x86 cpio kmod mmdebstrap e2fsprogs binutils
	@scripts/as-root scripts/test-vm

# What `make test` does in a few moments of each kind, whole.
test-kills: images
	FICELLE_KILLS=all FICELLE_LINES=3000000 FICELLE_ROUNDS=20 RUST_BACKTRACE=0 cargo test --locked \
		--config 'target."cfg(unix)".runner = "scripts/as-root"' --test it kills::

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings

bench: build
	cargo bench --locked --bench load
	cargo bench --locked --bench hostile
	@scripts/as-root benches/compose_peer
	@scripts/as-root benches/build_peer
	@scripts/as-root benches/images_peer

compare:
	cargo build --locked
	@scripts/base-images busybox
	@scripts/as-root scripts/compare-build
	@scripts/as-root scripts/compare-attributes
	@scripts/as-root scripts/beside-docker

fuzz:
	@scripts/fuzz
