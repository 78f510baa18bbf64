-- Makes a lease last: ours is extended; one that went away and that nobody took since (the server lost it, its
-- holder was paused) is taken again; another's is left alone.
-- KEYS: the lease
-- ARGV: its value, its life (ms)
-- Returns: 1 if it is ours, 0 if it is another's
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('GETRANGE', KEYS[1], 0, 4095) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
