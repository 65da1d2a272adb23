"""Other libraries' doors, answered by ours."""
