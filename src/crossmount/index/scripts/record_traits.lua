-- Records the traits of a registry. A registry that was untruthful once stays so until the hash expires.
-- KEYS: the registry's hash
-- ARGV: seconds to live, then fields and values
for i = 2, #ARGV, 2 do
  if not (ARGV[i] == 'truthful' and redis.call('HGET', KEYS[1], 'truthful') == '0') then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
return 1
