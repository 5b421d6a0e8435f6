"""A TLS server whose clock is another one: clock.py ADDRESS CERTIFICATE KEY DATE"""

import email.utils
import socket
import ssl
import sys

address, certificate, key, date = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
if date == "now":
    date = email.utils.formatdate(usegmt=True)
answer = f"HTTP/1.1 400 Bad Request\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
with socket.create_server((address, 8443)) as listener:
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.settimeout(2)
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                stream.recv(4096)
                stream.sendall(answer.encode())
        except OSError:
            pass
