/* Dunlin's library over libtorch: a C interface, opened at run time. */
