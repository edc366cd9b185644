"""The guestbook: entries in PostgreSQL, the number of visits in redis."""

import os

import flask
import psycopg2
import redis

app = flask.Flask(__name__)
cache = redis.Redis(host=os.environ["CACHE_HOST"])

PAGE = """<!DOCTYPE html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
<p>Visit number {{ visits }}, {{ entries | length }} entries.</p>
<ul>
{%- for name, message, written in entries %}
  <li><b>{{ name }}</b>: {{ message }} <i>({{ written.strftime("%Y-%m-%d %H:%M") }})</i></li>
{%- endfor %}
</ul>
<form method="post">
  <input name="name" placeholder="Your name" required>
  <input name="message" placeholder="Your message" required>
  <button>Sign</button>
</form>
"""


def database():
    return psycopg2.connect(
        host=os.environ["DB_HOST"],
        dbname=os.environ["POSTGRES_DB"],
        user=os.environ["POSTGRES_USER"],
        password=os.environ["POSTGRES_PASSWORD"],
    )


def query(statement, values=()):
    connection = database()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@app.get("/")
def page():
    entries = query("SELECT name, message, written FROM entries ORDER BY id DESC")
    visits = cache.incr("visits")
    return flask.render_template_string(
        PAGE, title=os.environ["TITLE"], visits=visits, entries=entries
    )


@app.post("/")
def sign():
    values = flask.request.form["name"], flask.request.form["message"]
    query("INSERT INTO entries (name, message) VALUES (%s, %s)", values)
    return flask.redirect("/", code=303)


@app.get("/healthz")
def healthy():
    query("SELECT 1")
    cache.ping()
    return "ok\n"
