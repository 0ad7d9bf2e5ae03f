"""Servers on loopback between a client and the local Redis: away, silent, or over TLS."""

import asyncio
import contextlib
import socket
from datetime import UTC, datetime, timedelta

import pytest


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def listening(serve, port, tls=None):
    """A server at a port, over TLS if given; its connections end with it."""
    tasks = set()

    async def connected(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await serve(reader, writer)
        await drop(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
    yield
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)


async def forward(reader, writer):
    """Be the local Redis."""
    reader_there, writer_there = await asyncio.open_connection("127.0.0.1", 6379)
    try:
        await asyncio.gather(copy(reader, writer_there), copy(reader_there, writer))
    finally:
        await drop(writer_there)


async def hang(reader, writer):
    """Be a server that never says anything."""
    await asyncio.Event().wait()


async def copy(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


async def drop(writer):
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def write_certificate(file):
    """A certificate of our own for 127.0.0.1, which is its own authority, with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from ipaddress import ip_address

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(address, False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem) + secret)
