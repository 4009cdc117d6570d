"""A virtual machine as the client: what a real kernel and a real file system see of an exported volume."""
