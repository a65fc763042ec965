"""Views of what callers pass in: any contiguous bytes-like object, released by whoever asked for the view."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef inline int buffer_of(object value, Py_buffer* view, str name) except -1:
    try:
        PyObject_GetBuffer(value, view, PyBUF_SIMPLE)
    except TypeError:
        raise TypeError(
            f"{name} must be bytes-like (bytes, bytearray, memoryview, array, numpy array), "
            f"not {type(value).__name__}"
        ) from None
    except (BufferError, ValueError):
        raise BufferError(f"{name} must be a C-contiguous buffer") from None
    return 0


cdef inline int keys_of(object value, Py_buffer* view) except -1:
    buffer_of(value, view, "keys")
    if view.len % 8:
        length = view.len
        PyBuffer_Release(view)
        raise ValueError(f"keys must be packed little-endian u64, a multiple of 8 bytes, not {length}")
    return 0
