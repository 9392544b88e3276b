//! Header to verdict: answer it ourselves, translate it, or drop it. Pure.
