"""The Centrifuge client protocol, version 2, of the project of that name: clients for many platforms. No I/O."""
