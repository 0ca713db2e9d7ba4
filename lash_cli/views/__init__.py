"""Pictures of state: a record goes in, a Rich renderable or safe text comes out. No decisions about sessions."""
