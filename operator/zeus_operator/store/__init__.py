"""History and learned state in PostgreSQL: `store.Store`, and `embedded.EmbeddedPostgres`.

Nothing is imported here: the guard of the embedded server is a module of this
package and must start light.
"""
